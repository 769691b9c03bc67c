"""What a back end must offer: five small methods in all, so that a new one is one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Host back ends compute on numpy arrays; a device back end will hand out its own buffers.
Buffer = NDArray[np.generic]


class Engine(Protocol):
    """One graph, ready to run."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers that the caller owns; may only enqueue."""


class Backend(Protocol):
    """Where graphs run."""

    description: str
    """One line for people: what runs where, and why it was chosen."""

    def load(self, graph: str) -> Engine:
        """Make one of `contract.GRAPHS` ready."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """An uninitialised buffer of this back end."""

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""

    def close(self) -> None:
        """Give back what the back end holds; it cannot be used afterwards."""
