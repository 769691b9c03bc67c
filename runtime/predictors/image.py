"""One image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.tensors import Features
from runtime.errors import InputError, PromptError
from runtime.model import Model, check_model
from runtime.predictors.encoded import Encoded
from runtime.predictors.framing import Framing
from runtime.predictors.prompted import PromptedSlice, check_prompts
from runtime.predictors.result import SliceMask, check_smooth
from runtime.predictors.single import SinglePrompted, prompt_single
from runtime.predictors.zoom import Zoom, check_zoom
from runtime.predictors.zoomed import Asked, prompt_zoomed
from runtime.prompts.prompts import Prompt


class ImagePredictor:
    """Segments a single 2-D image; encode it once, prompt it as often as you like.

    The image goes through the same preprocessing and decoder as a slice of a volume does. Any model will do, also one
    that has no memory.

    Example:
        predictor = ImagePredictor(load())
        predictor.set_image(pixels)                          # uint8, (y, x) or (y, x, 3)
        mask = predictor.predict(Point(y=120, x=200)).mask()

    Args:
        model: what `load` gives.
        zoom: side of the crop that the network is shown, in extents of the object (`runtime.predictors.zoom`); None
            shows it the whole image. A network without memory, which was never shown parts, has none.
        smooth: as for volumes; None is off.

    Raises InputError for a zoom that is no number from 1, or that the model cannot have.
    """

    def __init__(
        self, model: Model, zoom: float | None = None, smooth: float | None = None
    ) -> None:
        check_model(model)
        self._model, self._zoom = model, Zoom(check_zoom(zoom), model.numbers.image_size)
        self._is_single = model.numbers.kind == "image"
        if self._is_single and self._zoom.factor is not None:
            raise InputError(f"{model.numbers.name} is shown whole images alone; leave zoom out")
        self._smooth = check_smooth(smooth)
        self._encoded: Encoded | None = None
        self._shape = (0, 0)
        self._before: PromptedSlice | None = None
        self._single: SinglePrompted | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image, uint8 (y, x) or (y, x, 3); earlier prompts are forgotten. Raises InputError."""
        # The caller may write the next image into the same buffer.
        image = self._model.device_memory.take(image, is_kept=True)
        check_image(image, "image")
        if self._is_single or self._zoom.factor is not None:  # crops are cut on the host
            image = self._model.device_memory.get(image)
        self._shape = image.shape[:2]
        self._encoded = Encoded(self._model, lambda index: image)
        self.reset()
        if self._zoom.factor is None:  # else nobody may ever look at all of it
            self._encoded(0)

    def predict(self, *prompts: Prompt) -> SliceMask:
        """Segment one object: points, or a box with points, or points that correct the mask before them.

        A box or mask begins a new object; so does `reset`. Raises PromptError.
        """
        if self._encoded is None:
            raise PromptError("no image yet; call set_image first")
        check_prompts(prompts, (1, *self._shape))
        if self._is_single:
            return self._predict_single(self._encoded(0), prompts)
        asked = Asked(0, self._shape, prompts, self._before)
        confidence = self._model.confidence("iou")
        self._before = prompt_zoomed(self._model, self._encoded, self._zoom, asked, confidence)
        found = self._before
        return SliceMask(0, 1, found.segmented, self._shape, found.crop, smooth=self._smooth)

    def _predict_single(self, features: Features, prompts: Sequence[Prompt]) -> SliceMask:
        framing = Framing.of(self._model.numbers, self._shape)
        self._single = prompt_single(self._model, features, framing, prompts, self._single)
        segmented = self._single.segmented
        return SliceMask(0, 1, segmented, self._shape, framing=framing, smooth=self._smooth)

    def reset(self) -> None:
        """Forget the prompts; the image stays encoded."""
        self._before = self._single = None


def listed(images: Iterable[Any]) -> list[Any]:
    """The images of a set. Raises InputError for what is no such thing, and for an empty one."""
    try:
        found = list(images)
    except TypeError as error:
        raise InputError(
            f"found {type(images).__name__} for a set of images; wanted a list of arrays, uint8 (y, x) or (y, x, 3)"
        ) from error
    if not found:
        raise InputError("found no images; wanted at least one")
    return found


def check_image(image: NDArray[np.generic], name: str) -> None:
    """Raise InputError, which says `name`, unless an image is uint8 (y, x) or (y, x, 3) and not empty."""
    is_image = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size > 0
    if image.dtype != np.uint8 or not is_image:
        raise InputError(
            f"{name} is {image.dtype}{image.shape}; wanted uint8 (y, x) or (y, x, 3); "
            "map intensities to eight bits first (see runtime.io.window)"
        )
