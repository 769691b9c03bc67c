"""What two models are compared on: whole propagations of a phantom that use every way into the graphs.

Prompts of each kind, corrections, several prompted slices, a full batch of rows whose memories differ in number (so
that some are padded with weight 0), weights that are not 1, and images without order (no temporal code): what no task
asks, no certificate knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from runtime.errors import NotFinite
from runtime.measure.phantom import NUM_OBJECTS, Phantom, make_phantom
from runtime.memory import MemoryRules
from runtime.model import Model
from runtime.predictors import FlowPredictor, VolumePredictor
from runtime.predictors.result import SliceMask
from runtime.predictors.tracker import BACKWARD, FORWARD, MAX_ROWS
from runtime.prompts.prompts import Box, Mask, Point, Prompt

FULL_MEMORY = 10  # slices after which three prompted slices and six tracked ones are read
BATCH_SLICES = 4  # of a full batch: one object is prompted on three of them
MIN_DEPTH = FULL_MEMORY + 2  # of a phantom, whose objects are gone on its first and last slices
NUM_IMAGES = 4  # of the set without order
SMALL = 32  # pixels, where only the number of masks matters
WEIGHTED = MemoryRules(pick_up="weighted")

Call = tuple[int, tuple[Prompt, ...]]
"""One `add`: object and prompts."""

Track = dict[tuple[int, int], SliceMask]
"""(object, slice) to its mask, the last one where a correction was followed by another run."""


@dataclass(frozen=True, slots=True)
class ParityTask:
    """Prompts, a run, and perhaps corrections and another run.

    Attributes:
        calls: prompts before the first run.
        corrections: prompts after it.
        z_range: half-open range of slices; None is the whole phantom.
        directions: of the runs.
        rules: of memory.
        is_ordered: False for the slices of `z_range` as a set of images, numbered from 0.
    """

    calls: Sequence[Call]
    corrections: Sequence[Call] = ()
    z_range: tuple[int, int] | None = None
    directions: Sequence[int] = (FORWARD, BACKWARD)
    rules: MemoryRules = field(default_factory=MemoryRules)
    is_ordered: bool = True

    def num_masks(self, num_slices: int) -> int:
        """Slice masks that its runs give."""
        start, stop = self.z_range or (0, num_slices)
        objects = {object_id for object_id, _ in self.calls}
        return (stop - start) * len(objects) * (2 if self.corrections else 1)


def depth_of(num_slices: int) -> int:
    """Slices of a phantom on which every task finds what it needs."""
    return max(num_slices, MIN_DEPTH)


def tasks(phantom: Phantom, num_slices: int) -> dict[str, ParityTask]:
    """Tasks by name.

    Args:
        phantom: of `depth_of(num_slices)` slices.
        num_slices: about its middle, on which objects are followed both ways. A full batch and a full memory are asked
            of any number.
    """
    depth = len(phantom.pixels)
    middle, start = depth // 2, (depth - num_slices) // 2
    about = start, start + num_slices
    first, second = phantom.box(middle, 1), phantom.box(middle, 2)
    inside, outside = centre(first), centre(second, positive=False)
    mask = Mask(slice=middle, mask=phantom.labels[middle] == 1)
    return {
        "click": ParityTask([(1, (inside,))], (), about),
        "two boxes, clicks": ParityTask([(1, (first, inside, outside)), (2, (second,))], (), about),
        "mask": ParityTask([(1, (mask,))], (), about),
        "full batch, weighted, corrected": _full_batch(phantom, middle - 1),
        "full memory, weighted": _full_memory(phantom, min(middle - 1, depth - FULL_MEMORY - 1)),
        "images without order": _images(phantom, middle - 1),
    }


def _full_batch(phantom: Phantom, start: int) -> ParityTask:
    """As many objects as fit a batch; one on three slices. Two are corrected, on a prompted and a tracked slice."""
    stop = min(start + BATCH_SLICES, len(phantom.pixels))
    several = _on_three_slices(phantom, start)
    others = [(i, (_grown(phantom, start, i),)) for i in range(2, MAX_ROWS + 1)]
    corrections = [
        (1, (centre(phantom.box(start, 1)),)),
        (2, (centre(phantom.box(start + 1, 1), positive=False),)),
    ]
    return ParityTask([*several, *others], corrections, (start, stop), (FORWARD,), WEIGHTED)


def _full_memory(phantom: Phantom, start: int) -> ParityTask:
    """An object on three slices, followed until it reads all that a memory holds."""
    z_range = start, start + FULL_MEMORY
    return ParityTask(_on_three_slices(phantom, start), (), z_range, (FORWARD,), WEIGHTED)


def _on_three_slices(phantom: Phantom, start: int) -> list[Call]:
    return [(1, (phantom.box(index, 1),)) for index in range(start, start + 3)]


def _images(phantom: Phantom, start: int) -> ParityTask:
    """Two objects, prompted on one image each."""
    boxes = [(i, (replace(phantom.box(start + i - 1, i), slice=i - 1),)) for i in (1, 2)]
    z_range = start, min(start + NUM_IMAGES, len(phantom.pixels))
    return ParityTask(boxes, (), z_range, (FORWARD,), WEIGHTED, is_ordered=False)


def centre(box: Box, positive: bool = True) -> Point:
    """A click in the middle of a box."""
    return Point(slice=box.slice, y=sum(box.y) / 2, x=sum(box.x) / 2, positive=positive)


def _grown(phantom: Phantom, index: int, by: int) -> Box:
    """A box about one of the objects in turn, too large by some pixels, so that no two are alike."""
    box = phantom.box(index, 1 + (by - 1) % NUM_OBJECTS)
    height, width = phantom.pixels.shape[1:]
    (top, bottom), (left, right) = box.y, box.x
    return Box(
        slice=index,
        y=(max(top - by, 0), min(bottom + by, height)),
        x=(max(left - by, 0), min(right + by, width)),
    )


class TaskRunner:
    """One model's predictors for tasks: slices stay encoded between tasks of one kind of memory."""

    def __init__(self, model: Model, phantom: Phantom) -> None:
        self._model, self._phantom = model.plain(), phantom
        self._volumes: dict[MemoryRules, VolumePredictor] = {}

    def run(self, task: ParityTask, progress: Callable[[], object]) -> tuple[Track, str | None]:
        """A task's masks, as far as graphs gave numbers, and why it stopped if they did not."""
        track: Track = {}
        try:
            for slice_mask in self._masks(task):
                track[slice_mask.object_id, slice_mask.slice] = slice_mask
                progress()
        except NotFinite as error:
            return track, f"{error.graph} gave NaN or infinity in {error.output}"
        return track, None

    def _masks(self, task: ParityTask) -> Iterator[SliceMask]:
        predictor, stream = (self._volume if task.is_ordered else self._set)(task)
        for calls in (task.calls, task.corrections):
            for object_id, prompts in calls:
                predictor.add(*prompts, object_id=object_id)
            if calls:
                yield from stream()

    def _volume(
        self, task: ParityTask
    ) -> tuple[VolumePredictor, Callable[[], Iterator[SliceMask]]]:
        predictor = self._volumes.get(task.rules)
        if predictor is None:
            predictor = self._volumes[task.rules] = VolumePredictor(self._model, task.rules)
            predictor.set_volume(self._phantom.pixels)
        predictor.reset()
        return predictor, lambda: predictor.stream(task.z_range, task.directions)

    def _set(self, task: ParityTask) -> tuple[FlowPredictor, Callable[[], Iterator[SliceMask]]]:
        predictor = FlowPredictor(self._model, task.rules)
        predictor.set_images([*self._phantom.pixels[slice(*(task.z_range or (None, None)))]])
        return predictor, predictor.stream


def num_masks(num_slices: int) -> int:
    """Slice masks that all tasks give for one model."""
    depth = depth_of(num_slices)
    phantom = make_phantom((depth, SMALL, SMALL))
    return sum(task.num_masks(depth) for task in tasks(phantom, num_slices).values())
