"""What runs one graph, as everything above sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from kernels.device_array import Buffer


class Engine(Protocol):
    """One graph, ready to run."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers that the caller owns; may only enqueue."""


@runtime_checkable
class Batched(Protocol):
    """An engine that knows how many rows it had better be given at once."""

    @property
    def rows_at_once(self) -> int:
        """Rows of a batch that take less time together than one after another; 1 where nothing is gained."""


@runtime_checkable
class Trimmed(Protocol):
    """An engine that keeps memory from one run for the next, as much as its largest run took."""

    def trim(self) -> None:
        """Give back what no run needs now, from any thread; weights stay, and the next run takes memory anew."""
