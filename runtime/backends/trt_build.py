"""TensorRT engines from a bundle's graphs: which shapes they must take, and how they are built.

TensorRT 10, 11 and TensorRT-RTX are driven through the names they share. Building needs no GPU with TensorRT-RTX, and
nothing here creates a `Runtime`, which without a driver would crash the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runtime.contract import ModelNumbers, graph_specs
from runtime.errors import BackendUnavailable, BundleError

MODULES = ("tensorrt", "tensorrt_rtx")  # in the order of preference
WORKSPACE_BYTES = 4 << 30

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Lengths of a dynamic axis: smallest, the one to be fastest at, largest."""

    smallest: int
    usual: int
    largest: int


def spans(model: ModelNumbers) -> dict[str, Span]:
    """What the runtime asks of each dynamic axis of the contract.

    Slices are encoded eight at a time, as many rows as `tracker.MAX_ROWS` advance together, and every prompted slice
    is read beside the latest ones: 25 prompted slices are the most that one object may have on TensorRT.
    """
    return {
        "n": Span(1, 8, 8),
        "b": Span(1, 2, 8),
        "k": Span(1, model.num_maskmem, model.num_maskmem + 24),
        "p": Span(1, model.max_obj_ptrs, model.max_obj_ptrs + 24),
        "q": Span(1, 2, 32),
    }


def profile(model: ModelNumbers, graph: str) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, usual and largest shape of each input of a graph that has a dynamic axis."""
    axes = spans(model)
    lengths = [
        {axis: getattr(span, size) for axis, span in axes.items()}
        for size in ("smallest", "usual", "largest")
    ]
    shapes = {}
    for name, spec in graph_specs(model)[graph].inputs.items():
        if any(isinstance(side, str) for side in spec.shape):
            smallest, usual, largest = (spec.bind(axes) for axes in lengths)
            shapes[name] = (smallest, usual, largest)
    return shapes


def import_tensorrt() -> Any:
    """TensorRT's module, whichever there is. Raises BackendUnavailable."""
    reasons = []
    for name in MODULES:
        try:
            return import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise BackendUnavailable(
        f"no TensorRT here ({'; '.join(reasons)}); pip install tensorrt-rtx, or tensorrt from NVIDIA's own index"
    )


def build_engine(data: bytes, shapes: Mapping[str, tuple[Shape, Shape, Shape]], name: str) -> bytes:
    """A serialised engine of an ONNX graph.

    Args:
        data: the graph.
        shapes: smallest, usual and largest shape of each input with a dynamic axis.
        name: of the graph, for messages.

    Raises BackendUnavailable without TensorRT, BundleError for a graph that it refuses, with node and reason.
    """
    trt = import_tensorrt()
    logger = _Log(trt)
    builder = trt.Builder(logger.logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger.logger)
    if not parser.parse(data):
        raise BundleError(
            f"{trt.__name__} {trt.__version__} refuses {name}: {_parse_errors(parser)}"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    chosen = builder.create_optimization_profile()
    for tensor, (smallest, usual, largest) in shapes.items():
        chosen.set_shape(tensor, smallest, usual, largest)
    config.add_optimization_profile(chosen)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError(
            f"{trt.__name__} {trt.__version__} builds no engine of {name}: {logger.last_error}"
        )
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    """Precision comes from the graph's own types: a flag in TensorRT 10, the only way since 11."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors)


class _Log:
    """TensorRT's log, of which the last error is kept."""

    def __init__(self, trt: Any) -> None:
        self.last_error = "it does not say why"
        owner = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.ERROR:
                    owner.last_error = message

        self.logger = Logger()
