"""What runs one graph, as everything above sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kernels.device_array import Buffer


class Engine(Protocol):
    """One graph, ready to run."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers that the caller owns; may only enqueue."""
