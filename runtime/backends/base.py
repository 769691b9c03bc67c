"""What a back end must offer: few members, so that a new one is one file."""

from __future__ import annotations

from typing import Protocol

from runtime.devices.engine import Engine
from runtime.devices.memory import DeviceMemory
from runtime.steps.steps import Steps


class Backend(Protocol):
    """Where graphs run."""

    description: str
    """One line for people: what runs where, and why it was chosen."""

    device_memory: DeviceMemory
    """Where inputs and outputs of its engines live."""

    steps: Steps
    """How steps over its engines are carried out."""

    def load(self, graph: str) -> Engine:
        """Make one of `contract.GRAPHS` ready."""

    def close(self) -> None:
        """Give back what the back end holds; it cannot be used afterwards."""
