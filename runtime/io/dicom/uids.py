"""UIDs of what is written here (PS3.5 annex B.2): new ones, or always the same ones for the same work."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4, uuid5

# Of this project, drawn once: what is derived within it clashes with nobody else's.
_NAMESPACE = UUID("6e4cf0a6-0b3e-4c5b-9b59-2f3a1d7c88e4")


@dataclass(frozen=True, slots=True)
class Uids:
    """The UIDs of an object and of its parts.

    Attributes:
        identity: what tells the work from other work, such as a hash; None draws new ones each time.
    """

    identity: str | None = None

    def of(self, part: str) -> str:
        """The UID of a part, by its name."""
        drawn = uuid4() if self.identity is None else uuid5(_NAMESPACE, f"{self.identity} {part}")
        return f"2.25.{drawn.int}"
