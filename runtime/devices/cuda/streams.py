"""A device's two streams: one for steps, one for encodings that run ahead of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.errors import InputError

DEFAULT_STREAMS = (0, 1, 2)  # handles with a meaning: none, the legacy one, the thread's own
STEP_PRIORITY, ENCODE_PRIORITY = -1, 0  # a step is waited for, an encoding seldom


class Streams:
    """The streams on which everything is enqueued, and the one that is current.

    Args:
        device: a `kernels.device.Device`.
        step: handle of the caller's own stream for steps, such as pycuda's `stream.handle`; None makes one.

    Raises InputError for a default stream, on which no step can be captured.
    """

    def __init__(self, device: Any, step: int | None = None) -> None:
        if step in DEFAULT_STREAMS:
            raise InputError(
                f"found stream {step}, a default one, on which no step can be captured; wanted one that was made"
            )
        self._device = device
        self.step = device.stream(STEP_PRIORITY) if step is None else device.external_stream(step)
        self.encode = device.stream(ENCODE_PRIORITY)
        self._entered = [self.step]

    @property
    def current(self) -> Any:
        """The stream on which whatever is asked for is enqueued; the device is made current for the calling thread."""
        self._device.use()
        return self._entered[-1]

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Enqueue on another stream meanwhile, after all that is enqueued on the current one by now."""
        stream.wait(self.current.record())
        self._entered.append(stream)
        try:
            yield
        finally:
            self._entered.pop()

    def drain(self) -> None:
        """Have steps wait for all that is being encoded by now, from whatever thread this is called."""
        self._device.use()
        self.step.wait(self.encode)

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""
        self._device.use()
        self.step.sync()
        self.encode.sync()
