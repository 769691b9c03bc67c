"""Steps that are run as they are once, captured into a CUDA graph the second time, and launched from then on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from runtime.bundle.tensors import Decoded
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.cuda.recorder import BufferRecorder

MOST_REPLAYS = 32  # step shapes kept as graphs
Compute = Callable[[], Decoded]


@dataclass(slots=True)
class Replay:
    """A step of one shape on given addresses.

    Attributes:
        recorder: the buffers that it computes in.
        decoded: its outputs; scalars and pointers in pinned memory.
        graph: captured when the shape comes for the second time.
    """

    recorder: BufferRecorder
    decoded: Decoded
    graph: Any = None


class Replays:
    """Steps by their shape and addresses; those unused for longest are forgotten.

    Args:
        memory: what is computed takes its buffers from there.

    Attributes:
        steps: all that are kept.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self.steps: OrderedDict[Hashable, Replay] = OrderedDict()

    def run(self, key: Hashable, compute: Compute) -> Decoded:
        """Enqueue a step on the current stream. `key` holds everything by which what `compute` enqueues may differ."""
        if (step := self.steps.get(key)) is None:
            recorder = BufferRecorder()
            decoded = self._memory.recorded(recorder, compute)
            step = self.steps[key] = Replay(recorder, decoded)
            while len(self.steps) > MOST_REPLAYS:
                self.steps.popitem(last=False)
            return step.decoded
        self.steps.move_to_end(key)
        if step.graph is None:
            step.graph = self._captured(key, step, compute)
        step.graph.launch(stream=self._memory.current)
        return step.decoded

    @property
    def num_nodes(self) -> int | None:
        """Kernels and copies in the graph launched last; None before there is one."""
        graphs = [step.graph for step in self.steps.values() if step.graph is not None]
        return graphs[-1].num_nodes if graphs else None

    def _captured(self, key: Hashable, step: Replay, compute: Compute) -> Any:
        def again() -> None:
            step.recorder.rewind()
            self._memory.recorded(step.recorder, compute)
            step.recorder.rewind()

        try:
            return self._memory.device.capture(again, stream=self._memory.current)
        except BaseException:
            del self.steps[key]  # its recorder stands anywhere; the next time it begins anew
            raise
