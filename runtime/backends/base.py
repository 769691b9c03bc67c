"""What a back end must offer: three small methods in all, so that a new one is one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from runtime.place import Place

# Numpy arrays on the host; on a device `kernels.device_array.DeviceArray`, which has shape, dtype and items like one.
Buffer = NDArray[np.generic]


class Engine(Protocol):
    """One graph, ready to run."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers that the caller owns; may only enqueue."""


class Backend(Protocol):
    """Where graphs run."""

    description: str
    """One line for people: what runs where, and why it was chosen."""

    place: Place
    """Where inputs and outputs of its engines live."""

    def load(self, graph: str) -> Engine:
        """Make one of `contract.GRAPHS` ready."""

    def close(self) -> None:
        """Give back what the back end holds; it cannot be used afterwards."""
