"""Where the time of a step goes: each graph, and the rest as host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from runtime.backends import Buffer
from runtime.errors import InputError
from runtime.measure.phantom import NUM_OBJECTS, Phantom, make_phantom
from runtime.model import Model
from runtime.predictors import ImagePredictor, VolumePredictor
from runtime.predictors.slicewise import SlicewisePredictor

STAGES = {
    "image_encoder": "encode",
    "memory_attention": "attend",
    "mask_decoder": "decode",
    "memory_encoder": "memorise",
}
COLUMNS = (*STAGES.values(), "host", "total")
PERCENTILE = 95
# What is measured at most: far beyond any scan, and far from what numpy cannot count.
MOST_SLICES, MOST_OBJECTS, MOST_SIDE, LEAST_SIDE = 100_000, 10_000, 8192, 32


@dataclass(slots=True)
class Stopwatch:
    """An observer that sums each stage's milliseconds until it is read."""

    spent_ms: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], ms: float
    ) -> None:
        stage = STAGES[graph]
        self.spent_ms[stage] = self.spent_ms.get(stage, 0.0) + ms

    def lap(self) -> dict[str, float]:
        """Take the time spent since the last lap."""
        spent, self.spent_ms = self.spent_ms, {}
        return spent


@dataclass(frozen=True, slots=True)
class TimedRun:
    """One propagation, measured.

    Attributes:
        steps_ms: for each tracked slice, milliseconds by name of `COLUMNS`.
        first_mask_ms: from the first prompt on a new volume to its mask at the slice's size, encoding included.
        logits: (slice, object) to low-resolution logits, to be compared with another run's.
        second_prompt_ms: from a prompt on a slice already encoded to its mask; 0 where it was not taken.
    """

    steps_ms: Sequence[Mapping[str, float]]
    first_mask_ms: float
    logits: Mapping[tuple[int, int], Buffer]
    second_prompt_ms: float = 0.0


def bench_phantom(num_slices: int, image_size: int) -> Phantom:
    """A phantom with a middle slice and `num_slices` after it."""
    return make_phantom((2 * num_slices + 1, image_size, image_size))


def time_propagation(
    model: Model,
    phantom: Phantom,
    num_objects: int,
    max_feature_bytes: int | None = None,
    num_prompted: int = 1,
    on_slice: Callable[[], object] = lambda: None,
) -> TimedRun:
    """Box each object on the middle slice and follow it to the last, taking the time.

    A network of single images gets the boxes on each slice. A step brings every object's mask to the slice's size,
    since that is what a user waits for.

    Args:
        model, phantom: what to run on what.
        num_objects: objects to follow; beyond the phantom's own, its objects are followed several times over.
        max_feature_bytes: as for `VolumePredictor`.
        num_prompted: slices to prompt: the middle one and those before it.
        on_slice: called after each slice that is timed, while no time is taken.
    """
    if model.numbers.kind == "image":
        return time_stills(model, phantom, num_objects, on_slice)
    watch = Stopwatch()
    predictor = VolumePredictor(model.plain().observed(watch), max_feature_bytes=max_feature_bytes)
    predictor.set_volume(phantom.pixels, "none")
    first_mask_ms, second_prompt_ms = first_masks(predictor, phantom, num_objects)
    middle = prompt_all(predictor, phantom, num_objects, num_prompted)
    watch.lap()
    steps: list[dict[str, float]] = []
    logits = {}
    tracked = 0
    started = time.perf_counter()
    for slice_mask in predictor.stream(directions=(1,)):
        slice_mask.mask()
        logits[slice_mask.slice, slice_mask.object_id] = slice_mask.segmented.logits
        if slice_mask.slice <= middle:
            watch.lap()
            started = time.perf_counter()
            continue
        tracked += 1
        if tracked % num_objects == 0:
            now = time.perf_counter()
            steps.append(_account(watch.lap(), 1e3 * (now - started)))
            on_slice()
            started = time.perf_counter()
    return TimedRun(steps, first_mask_ms, logits, second_prompt_ms)


def time_stills(
    model: Model, phantom: Phantom, num_objects: int, on_slice: Callable[[], object] = lambda: None
) -> TimedRun:
    """Box each object on each slice from the middle to the last, with a network of single images, taking the time."""
    watch = Stopwatch()
    predictor = ImagePredictor(model.plain().observed(watch))
    middle = len(phantom.pixels) // 2
    boxes = [replace(phantom.box(middle, i % NUM_OBJECTS + 1), slice=0) for i in range(num_objects)]
    logits: dict[tuple[int, int], Buffer] = {}

    def segment(index: int) -> None:
        predictor.set_image(phantom.pixels[index])
        for object_id, box in enumerate(boxes, 1):
            found = predictor.predict(box)
            found.mask()
            logits[index, object_id] = found.segmented.logits

    first_mask_ms = _timed(lambda: segment(middle))
    second_prompt_ms = _timed(lambda: predictor.predict(boxes[0]).mask())
    watch.lap()
    steps = []
    for index in range(middle + 1, len(phantom.pixels)):
        total_ms = _timed(partial(segment, index))
        steps.append(_account(watch.lap(), total_ms))
        on_slice()
    return TimedRun(steps, first_mask_ms, logits, second_prompt_ms)


def first_masks(
    predictor: VolumePredictor, phantom: Phantom, num_objects: int
) -> tuple[float, float]:
    """Milliseconds from the first prompt on a new volume to its mask, and from another one on the same slice."""
    box = phantom.box(len(phantom.pixels) // 2, 1)
    first_ms = _timed(lambda: predictor.add(box).mask())
    second_ms = _timed(lambda: predictor.add(box, object_id=num_objects + 1).mask())
    predictor.undo()
    return first_ms, second_ms


def prompt_all(
    predictor: VolumePredictor | SlicewisePredictor,
    phantom: Phantom,
    num_objects: int,
    num_prompted: int,
) -> int:
    """Box each object on the middle slice and on those before it; returns the middle slice's number."""
    middle = len(phantom.pixels) // 2
    for i in range(num_objects):
        box = phantom.box(middle, i % NUM_OBJECTS + 1)
        for back in range(num_prompted):
            predictor.add(replace(box, slice=middle - back), object_id=i + 1)
    return middle


def time_volume(
    model: Model,
    phantom: Phantom,
    num_objects: int,
    max_feature_bytes: int | None = None,
    on_slice: Callable[[], object] = lambda: None,
) -> float:
    """Milliseconds from a volume in memory to the masks of all its slices, at the slices' size.

    Every object is boxed on the middle slice and followed in both directions, which advance as one batch; encoding of
    every slice is part of it. `on_slice` is called as often as there are slices; what it takes is counted.
    """
    predictor: VolumePredictor | SlicewisePredictor
    if model.numbers.kind == "image":
        predictor, z_range = SlicewisePredictor(model, max_feature_bytes), (0, len(phantom.pixels))
    else:
        predictor = VolumePredictor(model.plain(), max_feature_bytes=max_feature_bytes)
        z_range = None

    def segment() -> None:
        predictor.set_volume(phantom.pixels, "none")
        prompt_all(predictor, phantom, num_objects, 1)
        for count, slice_mask in enumerate(predictor.stream(z_range), 1):
            slice_mask.mask()
            if count % num_objects == 0:
                on_slice()

    return _timed(segment)


def _timed(do: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    started = time.perf_counter()
    do()
    return 1e3 * (time.perf_counter() - started)


def _account(spent_ms: dict[str, float], total_ms: float) -> dict[str, float]:
    host_ms = total_ms - sum(spent_ms.values())
    return {**spent_ms, "host": host_ms, "total": total_ms}


def steady(runs: Sequence[TimedRun], num_maskmem: int) -> list[Mapping[str, float]]:
    """The steps of all runs with a full memory; of short runs, and of networks without one, all."""
    full = [step for run in runs for step in run.steps_ms[max(num_maskmem - 1, 0) :]]
    return full or [step for run in runs for step in run.steps_ms]


def summarise(runs: Sequence[TimedRun], num_maskmem: int) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of each of `COLUMNS`, in milliseconds."""
    steps = steady(runs, num_maskmem)
    table = {}
    for column in COLUMNS:
        values = [step.get(column, 0.0) for step in steps]
        table[column] = {
            "median": round(float(np.median(values)), 3),
            f"p{PERCENTILE}": round(float(np.percentile(values, PERCENTILE)), 3),
        }
    return table


def middle_ms(row: Mapping[str, float]) -> float:
    """Median of a row of `summarise`, or the mean where that is all: on a device slices are encoded in batches."""
    return row["median"] if "median" in row else row["mean"]


def percent_of_roofline(
    latency_ms: Mapping[str, Mapping[str, float]], floors: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """How near each stage comes to its floor: 100 would be as fast as the machine can.

    Args:
        latency_ms: as of `summarise`.
        floors: stage to a row with `floor_ms`, as `python -m benchmarks roofline` reports them.
    """
    taken_ms = {stage: middle_ms(latency_ms[stage]) for stage in floors}
    return {
        stage: round(100 * row["floor_ms"] / taken_ms[stage], 2)
        for stage, row in floors.items()
        if taken_ms[stage] > 0
    }


def check_sizes(num_slices: int, num_objects: int, image_size: int) -> None:
    """Raise InputError for a volume that cannot be measured."""
    for found, least, most, what in (
        (num_slices, 1, MOST_SLICES, "slices"),
        (num_objects, 1, MOST_OBJECTS, "objects"),
        (image_size, LEAST_SIDE, MOST_SIDE, "pixels a side"),
    ):
        if not least <= found <= most:
            raise InputError(f"found {found} {what} to measure; wanted {least} to {most}")
