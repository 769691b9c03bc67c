"""One client's hold on a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.serve.session import InteractiveSession


@dataclass(eq=False)
class Lease:
    """One client's hold on a session.

    Attributes:
        token: what the client shows.
        session: that it is for.
        face: which protocol it came by.
        number: for logs, which never see the token.
        last_active: when its user last did something, by the leases' clock.
        last_seen: when its client last gave a sign of life.
        left: when its client said that it goes, if that was the last thing it said.
        pending: requests that run or wait.
        held_bytes: in images and masks.
        on_end: called once it has ended, in a thread of the leases' own.
    """

    token: str
    session: InteractiveSession
    face: str
    number: int
    last_active: float
    last_seen: float
    left: float | None = None
    pending: int = 0
    held_bytes: dict[str, int] = field(default_factory=dict)
    on_end: Callable[[], None] = lambda: None
