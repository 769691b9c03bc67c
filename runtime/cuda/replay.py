"""Steps that are run as they are once, captured into a CUDA graph the second time, and launched from then on."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtime.cuda.tape import Tape
from runtime.tensors import Decoded

MOST_REPLAYS = 32  # step shapes kept as graphs
Compute = Callable[[], Decoded]


@dataclass(slots=True)
class Replay:
    """A step of one shape on given addresses.

    Attributes:
        tape: the buffers that it computes in.
        decoded: its outputs; scalars and pointers in pinned memory.
        graph: captured when the shape comes for the second time.
    """

    tape: Tape
    decoded: Decoded
    graph: Any = None


class Replays:
    """Steps by their shape and addresses; those unused for longest are forgotten.

    Args:
        device: where.

    Attributes:
        steps: all that are kept.
        tape: of the pass in progress; what is computed must take its buffers from there.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self.steps: OrderedDict[Hashable, Replay] = OrderedDict()
        self.tape: Tape | None = None

    def run(self, key: Hashable, compute: Compute, *, stream: Any) -> Decoded:
        """Enqueue a step. `key` holds everything by which what `compute` enqueues may differ."""
        if (step := self.steps.get(key)) is None:
            tape = Tape()
            step = self.steps[key] = Replay(tape, self._pass(tape, compute))
            while len(self.steps) > MOST_REPLAYS:
                self.steps.popitem(last=False)
            return step.decoded
        self.steps.move_to_end(key)
        if step.graph is None:
            step.graph = self._captured(key, step, compute, stream)
        step.graph.launch(stream=stream)
        return step.decoded

    @property
    def num_nodes(self) -> int | None:
        """Kernels and copies in the graph launched last; None before there is one."""
        graphs = [step.graph for step in self.steps.values() if step.graph is not None]
        return graphs[-1].num_nodes if graphs else None

    def _captured(self, key: Hashable, step: Replay, compute: Compute, stream: Any) -> Any:
        def again() -> None:
            step.tape.rewind()
            self._pass(step.tape, compute)
            step.tape.rewind()

        try:
            with _uncollected():
                return self._device.capture(again, stream=stream)
        except BaseException:
            del self.steps[key]  # its tape stands anywhere; the next time it begins anew
            raise

    def _pass(self, tape: Tape, compute: Compute) -> Decoded:
        self.tape = tape
        try:
            return compute()
        finally:
            self.tape = None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: whatever that frees or waits for would break a capture, or become a part of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
