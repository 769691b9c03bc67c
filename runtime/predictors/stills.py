"""Sets of images and networks without memory: each image by its own prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, PromptError
from runtime.model import Model, check_model
from runtime.predictors.encoded import Encoded
from runtime.predictors.framing import Framing
from runtime.predictors.image import check_image, listed
from runtime.predictors.prompted import check_prompts
from runtime.predictors.result import SliceMask
from runtime.predictors.single import SinglePrompted, prompt_single
from runtime.prompts.prompts import Prompt, check_object_id, is_whole, shown
from runtime.steps.features import check_bound


class StillsPredictor:
    """Segments objects on the images of a set on which they are prompted, with a network of kind `image`.

    Args:
        model: what `load` gives, of kind `image`.
        max_feature_bytes: of encoded images to hold; None is a third of the machine's memory.

    Raises InputError for a model with memory, which `FlowPredictor` is for.
    """

    def __init__(self, model: Model, max_feature_bytes: int | None = None) -> None:
        check_model(model)
        check_bound(max_feature_bytes)
        if model.numbers.kind != "image":
            raise InputError(f"{model.numbers.name} has a memory; use FlowPredictor")
        self._model, self._max_feature_bytes = model, max_feature_bytes
        self._images: Sequence[NDArray[np.uint8]] = ()
        self._encoded: Encoded | None = None
        self._answers: dict[tuple[int, int], SinglePrompted] = {}

    def set_images(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Take uint8 images (y, x) or (y, x, 3), of any sizes. Raises InputError, as for an empty set."""
        memory = self._model.device_memory  # where crops are cut is the host
        taken = [memory.get(memory.take(image)) for image in listed(images)]
        for i, image in enumerate(taken):
            check_image(image, f"image {i}")
        self._images, self._answers = taken, {}
        self._encoded = Encoded(self._model, lambda index: taken[index], self._max_feature_bytes)

    @property
    def num_encodings(self) -> int:
        """How many images have been encoded."""
        return 0 if self._encoded is None else self._encoded.numbering.num_read

    def add(self, *prompts: Prompt, object_id: int = 1) -> SliceMask:
        """Prompt one object on one image and see the result at once. Raises PromptError."""
        check_object_id(object_id)
        index = prompts[0].slice if prompts else 0
        if self._encoded is None or not is_whole(index) or not 0 <= index < len(self._images):
            raise PromptError(f"there is no image {shown(index)}: there are {len(self._images)}")
        check_prompts(prompts, (len(self._images), *self._images[index].shape[:2]))
        framing, before = self._framing(index), self._answers.get((object_id, index))
        answer = prompt_single(self._model, self._encoded(index), framing, prompts, before)
        self._answers[object_id, index] = answer
        return SliceMask(index, object_id, answer.segmented, framing.shape, framing=framing)

    def num_results(self) -> int:
        """How many masks `stream` will give."""
        return len(self._answers)

    def on_image(self, index: int) -> int:
        """How many of them are of one image."""
        return sum(number == index for _, number in self._answers)

    def stream(self) -> Iterator[SliceMask]:
        """All masks, image by image."""
        for object_id, index in sorted(self._answers, key=lambda key: key[::-1]):
            segmented, framing = self._answers[object_id, index].segmented, self._framing(index)
            yield SliceMask(index, object_id, segmented, framing.shape, framing=framing)

    def _framing(self, index: int) -> Framing:
        height, width = self._images[index].shape[:2]
        return Framing.of(self._model.numbers, (height, width))
