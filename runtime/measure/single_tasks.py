"""What two models of single images are compared on: every kind of prompt that they take, on images of two shapes.

What no task asks, no certificate knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runtime.errors import NotFinite
from runtime.measure.phantom import Phantom
from runtime.measure.tasks import Track, centre
from runtime.model import Model
from runtime.predictors import ImagePredictor
from runtime.predictors.framing import Framing
from runtime.prompts.prompts import Box, Prompt

NUM_IMAGES = 2


@dataclass(frozen=True, slots=True)
class SingleTask:
    """Objects on one image; each call of an object corrects what the one before gave.

    Attributes:
        image: number of it.
        objects: id to prompts of each call.
    """

    image: int
    objects: dict[int, Sequence[Sequence[Prompt]]]


def images_of(phantom: Phantom) -> list[NDArray[np.uint8]]:
    """Its middle slice, and the lower three quarters of the one after it."""
    middle = len(phantom.pixels) // 2
    after = phantom.pixels[min(middle + 1, len(phantom.pixels) - 1)]
    return [phantom.pixels[middle], after[len(after) // 4 :]]


def single_tasks(phantom: Phantom, model: Model) -> dict[str, SingleTask]:
    """Tasks by name; clicks only for a model that takes them."""
    middle = len(phantom.pixels) // 2
    first, second = (replace(phantom.box(middle, i), slice=0) for i in (1, 2))
    inside, outside = centre(first), centre(second, positive=False)
    height, width = images_of(phantom)[1].shape
    border = Box(y=(0, height / 3), x=(width / 2, width))
    boxes = {
        "boxes": SingleTask(0, {1: [[first]], 2: [[second]]}),
        "box at a border, not square": SingleTask(1, {1: [[border]]}),
    }
    if Framing.of(model.numbers, (1, 1)).profile.boxes_alone:
        return boxes
    return {
        **boxes,
        "clicks, with and without a box": SingleTask(
            0, {1: [[inside]], 2: [[inside, outside]], 3: [[first, inside, outside]]}
        ),
        "corrected": SingleTask(1, {1: [[border], [centre(border, positive=False)]]}),
    }


class SingleRunner:
    """One model's images for tasks, each encoded once."""

    def __init__(self, model: Model, phantom: Phantom) -> None:
        self._model, self._images = model, images_of(phantom)
        self._predictors: dict[int, ImagePredictor] = {}

    def run(self, task: SingleTask, progress: Callable[[], object]) -> tuple[Track, str | None]:
        """A task's masks, as far as graphs gave numbers, and why it stopped if they did not."""
        track: Track = {}
        try:
            if task.image not in self._predictors:
                predictor = self._predictors[task.image] = ImagePredictor(self._model)
                predictor.set_image(self._images[task.image])
            predictor = self._predictors[task.image]
            for object_id, calls in task.objects.items():
                predictor.reset()
                for prompts in calls:
                    track[object_id, task.image] = predictor.predict(*prompts)
                    progress()
        except NotFinite as error:
            return track, str(error)
        return track, None


def num_single_masks(phantom: Phantom, model: Model) -> int:
    """Masks that all tasks give for one model."""
    tasks = single_tasks(phantom, model).values()
    return sum(len(calls) for task in tasks for calls in task.objects.values())
