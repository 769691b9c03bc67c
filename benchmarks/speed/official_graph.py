"""The official predictor's modules replayed as CUDA graphs: the strongest form in which its own kernels can be raced.

At 512 pixels most of a step is launches rather than arithmetic, and a graph launches a module's kernels at once. Each
of the four modules keeps one graph for every kind of call: as memory fills, memory attention meets about as many shapes
as it reads pointers, and each is captured when it is first met. What is outside the modules stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runtime.errors import BackendUnavailable

MODULES = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")
WARM_UPS = (
    3  # calls on a side stream before a capture: libraries choose kernels and get their workspaces
)


class Graph(Protocol):
    """A call that has been recorded, and where its results will lie."""

    outputs: Any

    def replay(self) -> None:
        """Do it again, on what the inputs hold now."""


Record = Callable[[Callable[[], Any]], Graph]
"""Makes a graph of a call without arguments."""


class TorchGraph:
    """A call recorded by the CUDA device.

    All graphs share one pool of memory, so outputs have to be copied before any other graph is replayed.
    """

    _pool: Any = None

    def __init__(self, call: Callable[[], Any]) -> None:
        if TorchGraph._pool is None:
            TorchGraph._pool = torch.cuda.graph_pool_handle()
            # Autocast frees its copies of the weights at the end of a region; graphs read them after that.
            torch.autocast_increment_nesting()
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                call()
        main.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=TorchGraph._pool):
            self.outputs = call()

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A graph and the tensors it reads."""

    graph: Graph
    inputs: list[Tensor]


class Replayed:
    """A module's `forward` that is recorded once for each kind of call and replayed from then on.

    Calls are of one kind if all their tensors agree in shape, dtype and device and everything else is equal.

    Args:
        forward: whose results depend on its arguments alone.
        record: makes graphs.
    """

    def __init__(self, forward: Callable[..., Any], record: Record = TorchGraph) -> None:
        self._forward, self._record = forward, record
        self._replays: dict[Hashable, Recorded] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = (args, kwargs)
        kind, tensors = _kind(call), list(_tensors(call))
        if kind not in self._replays:
            self._replays[kind] = self._recorded(call)
        replay = self._replays[kind]
        for static, tensor in zip(replay.inputs, tensors, strict=True):
            static.copy_(tensor)
        replay.graph.replay()
        return _map(torch.clone, replay.graph.outputs)

    def _recorded(self, call: tuple[Any, Any]) -> Recorded:
        args, kwargs = own = _map(torch.clone, call)
        return Recorded(self._record(lambda: self._forward(*args, **kwargs)), list(_tensors(own)))


def replay_modules(
    predictor: nn.Module, device: str, record: Record | None = None
) -> dict[str, Replayed]:
    """Let `MODULES` of an official predictor replay graphs, and return what they call now.

    Raises BackendUnavailable off CUDA, unless `record` says what to record with.
    """
    if record is None and not device.startswith("cuda"):
        raise BackendUnavailable(f"CUDA graphs need a CUDA device; this contender runs on {device}")
    calls = {}
    for name in MODULES:
        module = getattr(predictor, name)
        calls[name] = module.forward = Replayed(module.forward, record or TorchGraph)
    return calls


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nest with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map(change, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(change, item) for item in value)
    return value


def _kind(value: Any) -> Hashable:
    """What calls must share to be served by one graph."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.dtype, str(value.device))
    if isinstance(value, dict):
        return ("dict", *((key, _kind(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(_kind, value))
    return (type(value).__name__, value)
