"""What a page asks of an object, while it waits for its turn and while it is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.serve.planes import Box3
from runtime.serve.session import InteractiveSession

Call = Callable[[InteractiveSession], Box3 | None]
Describe = Callable[[int], dict[str, Any]]
"""What the page is told of an object, by its number."""


@dataclass(frozen=True, slots=True)
class PageVerb:
    """One verb that was asked for.

    Attributes:
        seq: its number.
        object_id: the object it is about.
        call: does it, once the object is selected, and gives the box that has changed.
        describe: the object, once it is done. The work itself holds none: that would be a circle about the page.
        arrived_s: when it was asked for, on the monotonic clock.
        num_bytes: that the call keeps.
    """

    seq: int
    object_id: int
    call: Call
    describe: Describe
    arrived_s: float
    num_bytes: int = 0
