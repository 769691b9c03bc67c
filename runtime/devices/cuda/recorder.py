"""Buffers that a computation asked for, in order, so that it can be done again in the same ones.

A captured graph holds addresses. What is computed is therefore run once for real, its buffers noted, and captured in a
second pass that is given the same buffers; neither allocates nor copies from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class BufferRecorder:
    """Buffers in the order in which they were asked for.

    Attributes:
        entries: each with what it was asked for: its shape and type, or the contents that it was to have.
        position: how far the pass in progress has come.
    """

    entries: list[tuple[Any, Any]] = field(default_factory=list)
    position: int = 0
    is_recorded: bool = False

    def empty(self, shape: tuple[int, ...], dtype: str, make: Callable[[], Any]) -> Any:
        """A buffer; `make` makes it in the first pass."""
        return self._next((shape, dtype), make)

    def constant(self, array: NDArray[Any], make: Callable[[], Any]) -> Any:
        """A buffer with contents that are the same in every pass."""
        return self._next(array, make)

    def rewind(self) -> None:
        """Begin another pass. RuntimeError if the one before left buffers over."""
        if self.is_recorded and self.position != len(self.entries):
            raise RuntimeError(f"a pass took {self.position} buffers of {len(self.entries)}")
        self.is_recorded, self.position = True, 0

    def _next(self, wanted: Any, make: Callable[[], Any]) -> Any:
        if not self.is_recorded:
            request = wanted.copy() if isinstance(wanted, np.ndarray) else wanted
            self.entries.append((request, make()))
            self.position += 1
            return self.entries[-1][1]
        if self.position >= len(self.entries):
            raise RuntimeError(f"a pass asks for more than {len(self.entries)} buffers")
        before, buffer = self.entries[self.position]
        if not _is_same(before, wanted):
            raise RuntimeError(f"a pass asks for {wanted} where the first asked for {before}")
        self.position += 1
        return buffer


def _is_same(before: Any, wanted: Any) -> bool:
    if isinstance(before, np.ndarray) and isinstance(wanted, np.ndarray):
        return before.dtype == wanted.dtype and np.array_equal(before, wanted)
    return type(before) is type(wanted) and bool(before == wanted)
