"""TensorRT engines from a bundle's graphs: which shapes they must take, and how they are built.

TensorRT 10, 11 and TensorRT-RTX are driven through the names they share. Building needs no GPU with TensorRT-RTX, and
nothing here creates a `Runtime`, which without a driver would crash the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from runtime.bundle.contract import ModelNumbers, TensorSpec, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from runtime.files.cache import read_cached, write_cached
from runtime.process.noted_signals import noted_signals

# In the order of preference; the last is what the one before imports all from, and may be there alone.
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Smallest, usual and largest shape of each input with a dynamic axis."""
Progress = Callable[[str, float], bool]
"""Told a phase and the share of it that is done; False stops the build."""


@dataclass(frozen=True, slots=True)
class Span:
    """Lengths of a dynamic axis: smallest, the one to be fastest at, largest."""

    smallest: int
    usual: int
    largest: int

    @classmethod
    def exactly(cls, length: int) -> Span:
        """A span of one length alone."""
        return cls(length, length, length)


def spans(model: ModelNumbers) -> dict[str, Span]:
    """What the runtime asks of each dynamic axis of the contract.

    Slices are encoded eight at a time, as many rows as `tracker.MAX_ROWS` advance together, and every prompted slice
    is read beside the latest ones: 25 prompted slices are the most that one object may have on TensorRT. Networks of
    single images see one at a time, and their attention over whole maps has room for no more.
    """
    if model.kind == "image":
        return {"n": Span.exactly(1), "b": Span.exactly(1), "q": Span(1, 2, 32)}
    return {
        "n": Span(1, 8, 8),
        "b": Span(1, 2, 8),
        "k": Span(1, model.num_maskmem, model.num_maskmem + 24),
        "p": Span(1, model.max_obj_ptrs, model.max_obj_ptrs + 24),
        "q": Span(1, 2, 32),
    }


def profiles(
    model: ModelNumbers, graph: str, inputs: Mapping[str, TensorSpec] | None = None
) -> list[Profile]:
    """Shapes that an engine is made for, each with kernels of its own; the first that fits is used.

    A single slice encoded for a prompt; a step of one object in one direction or in both, with a full memory (a step is
    padded to that, so that a volume knows no other); then everything else that may come.

    Args:
        model: its numbers.
        graph: name in the contract.
        inputs: of a part of the graph, with the contract's axes; None takes the graph's own.
    """
    general = spans(model)
    remembered = [axis for axis in general if axis in ("k", "p")]
    step = {axis: Span.exactly(general[axis].usual) for axis in remembered}
    step["q"] = Span.exactly(1 if remembered else 2)  # of a click and its pad, or of a box
    most = range(1, min(2, general["b"].largest) + 1)
    exact = [{axis: Span.exactly(rows) for axis in "nb"} | step for rows in most]
    if inputs is None:
        inputs = graph_specs(model)[graph].inputs
    distinct: list[Profile] = []
    for axes in (*exact, general):
        profile = _profile(inputs, {**general, **axes})
        if profile not in distinct and not (
            graph == "image_encoder" and axes is exact[-1] is not exact[0]
        ):
            distinct.append(profile)
    return distinct


def choose_profile(candidates: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Number of the first profile that takes these shapes; None if none does."""
    for number, profile in enumerate(candidates):
        if all(
            all(
                low <= side <= high
                for low, side, high in zip(least, shapes[name], most, strict=True)
            )
            for name, (least, _, most) in profile.items()
        ):
            return number
    return None


def _profile(inputs: Mapping[str, TensorSpec], axes: Mapping[str, Span]) -> Profile:
    lengths = [
        {axis: getattr(span, size) for axis, span in axes.items()}
        for size in ("smallest", "usual", "largest")
    ]
    shapes = {}
    for name, spec in inputs.items():
        if any(isinstance(side, str) for side in spec.shape):
            smallest, usual, largest = (spec.bind(axis_lengths) for axis_lengths in lengths)
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


def is_rtx(trt: Any) -> bool:
    """Whether it is TensorRT-RTX: it times nothing while it builds, and warns of timings as of an error."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def build_engine(
    data: bytes,
    wanted: Sequence[Profile],
    name: str,
    timings: Path | None = None,
    progress: Progress | None = None,
    uses_tf32: bool = False,
) -> bytes:
    """A serialised engine of an ONNX graph.

    Its workspace has no limit but TensorRT's own, the device's memory: where scores of attention are written out, those
    of its largest shape may take more than any of ours, and a context takes what its own shapes need.

    Args:
        data: the graph, in the types that it is to be computed in.
        wanted: shapes to make it for.
        name: of the graph, for messages.
        timings: file of measured kernel times, read and written, which makes the next build faster.
        progress: is told how far it has come.
        uses_tf32: let products of float32 tensors round what they read to ten bits. In a graph in half, those are the
            scores of memory attention, which have more bits than half even so; in one in float32 every digit counts.

    Raises BackendUnavailable without TensorRT, BundleError for a graph that it refuses, with node and reason,
    KeyboardInterrupt if `progress` or a signal stopped it.
    """
    trt = import_tensorrt()
    logger = Log(trt)
    builder = trt.Builder(logger.logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger.logger)
    if not parser.parse(data):
        raise BundleError(
            f"{trt.__name__} {trt.__version__} refuses {name}: {_parse_errors(parser)}"
        )
    config = builder.create_builder_config()
    (config.set_flag if uses_tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    for shapes in wanted:
        chosen = builder.create_optimization_profile()
        for tensor, (smallest, usual, largest) in shapes.items():
            chosen.set_shape(tensor, smallest, usual, largest)
        config.add_optimization_profile(chosen)
    cache = None if is_rtx(trt) else _read_timings(config, timings)
    with noted_signals() as came:
        config.progress_monitor = monitor = _monitor(trt, progress, came)
        plan = builder.build_serialized_network(network, config)
    if monitor.is_stopped:
        raise KeyboardInterrupt
    if plan is None:
        raise BundleError(
            f"{trt.__name__} {trt.__version__} builds no engine of {name}: {logger.last_error}"
        )
    if cache is not None and timings is not None:
        write_cached(timings, bytes(cache.serialize()))
    return bytes(plan)


def _read_timings(config: Any, path: Path | None) -> Any:
    """The cache of timings in use; one that another TensorRT wrote, or that is damaged, begins anew."""
    if path is None:
        return None
    cache = config.create_timing_cache(read_cached(path) or b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            return None
    return cache


def _monitor(trt: Any, progress: Progress | None, came: Sequence[int]) -> Any:
    """TensorRT's phases, of which those within others are not told; once a signal has come it goes no further."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.is_stopped = False

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            if not parent:
                self.steps[phase] = max(num_steps, 1)

        def step_complete(self, phase: str, step: int) -> bool:
            goes_on = not came
            if goes_on and progress is not None and phase in self.steps:
                goes_on = progress(phase, (step + 1) / self.steps[phase])
            if not goes_on or came:
                self.is_stopped = True
            return not self.is_stopped

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _network_flags(trt: Any) -> int:
    """Precision comes from the graph's own types: a flag in TensorRT 10, the only way since 11."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors)


class Log:
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
