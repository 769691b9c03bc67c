"""Prompting with zoom: in which crop a slice is seen, and the look at the whole slice that points need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.bundle.confidence import Confidence
from runtime.model import Model
from runtime.predictors.encoded import Encoded
from runtime.predictors.prompted import PromptedSlice, Tracked, prompt_slice
from runtime.predictors.region import Region, Shape, widest
from runtime.predictors.zoom import NEAR, Zoom, extent_of
from runtime.prompts.prompts import Box, Mask, Point, Prompt

Crop = Region | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts of one call, and what is known of their object.

    Attributes:
        index: of the slice.
        shape: (y, x) of it.
        prompts: checked, all on this slice.
        before, tracked: as for `prompt_slice`.
        others: crops in which the object is prompted on other slices.
        shared: crops of other objects, which may serve this one too.
    """

    index: int
    shape: Shape
    prompts: Sequence[Prompt]
    before: PromptedSlice | None = None
    tracked: Tracked | None = None
    others: Sequence[Crop] = ()
    shared: Sequence[Crop] = ()

    def at_once(self) -> Asked:
        """Points together with the box and points before them on their slice, if tracking had not come there first."""
        before = self.before
        if before is None or before.conditioned is not None:
            return self
        if not all(isinstance(p, Point) for p in self.prompts):
            return self
        if any(isinstance(p, Mask) for p in before.prompts):
            return self
        return replace(self, prompts=(*before.prompts, *self.prompts), before=None, tracked=None)

    @property
    def is_anew(self) -> bool:
        """Whether the prompts say by themselves where the object is, whatever was there."""
        return any(isinstance(p, Box | Mask) for p in self.prompts)

    @property
    def corrected(self) -> PromptedSlice | Tracked | None:
        """What points correct, unless it was that the object is absent, which says nothing of where it is."""
        if self.is_anew or self.before is None:
            return None if self.is_anew else self.tracked
        return None if self.before.is_empty else self.before


def prompt_zoomed(
    model: Model, encoded: Encoded, zoom: Zoom, asked: Asked, confidence: Confidence
) -> PromptedSlice:
    """Segment a slice from its prompts, in a crop about their object.

    A box or a mask tells where it is. Points alone tell nothing of its extent: they are answered on the whole slice
    first, then anew in a crop about the mask that this gave. A crop that the object has already
    stays, or becomes a wider one where prompts lie outside it or at its edge.
    """
    if zoom.factor is None:
        return _segment(model, encoded, asked, confidence, None, asked.before)
    here, extent = asked.corrected, Region.of_prompts(asked.prompts)
    if asked.others or (here is not None and not _is_look(here)):
        crops = [*asked.others, *([here.crop] if here else [])]
        crop = _holding(zoom, crops, extent, asked.shape, NEAR if asked.is_anew else 0.0)
    elif asked.is_anew:
        crop = _first(zoom, extent, asked)
    else:
        return _look(model, encoded, zoom, asked, confidence)
    return _segment(model, encoded, asked, confidence, crop, asked.before)


def _is_look(here: PromptedSlice | Tracked) -> bool:
    """Whether points were answered on a whole slice because nobody knew, and nobody knows, where there is more."""
    return isinstance(here, PromptedSlice) and here.crop is None and here.conditioned is None


def _look(
    model: Model, encoded: Encoded, zoom: Zoom, asked: Asked, confidence: Confidence
) -> PromptedSlice:
    """Points alone, of an object whose extent nobody knows."""
    whole = _segment(model, encoded, asked, confidence, None, asked.before)
    extent = extent_of(whole.segmented.logits, None, asked.shape)
    points = Region.of_prompts(whole.prompts)
    if (
        extent is None
        or points is None
        or (crop := _first(zoom, extent.with_(points), asked)) is None
    ):
        return whole
    # Not given that mask to correct: its coarse outline misleads more than it helps (benchmarks/notes.md).
    return _segment(model, encoded, asked, confidence, crop, asked.before)


def _first(zoom: Zoom, extent: Region | None, asked: Asked) -> Crop:
    """The crop of an object that has none: one that is there and fits, which costs no encodings, or its own."""
    if extent is None:
        return None
    fitting = [crop for crop in asked.shared if zoom.fits(crop, extent, asked.shape)]
    own = zoom.about(extent, asked.shape)
    return min((crop for crop in fitting if crop), key=lambda crop: crop.shape, default=own)


def _holding(
    zoom: Zoom, crops: Sequence[Crop], extent: Region | None, shape: Shape, margin: float
) -> Crop:
    """The widest of an object's crops, or a wider one where what is asked for lies outside or too near to the edge."""
    crop = widest(crops)
    if crop is None or extent is None or zoom.room(crop, extent, shape) >= margin:
        return crop
    return zoom.wider(crop, extent, shape)


def _segment(
    model: Model,
    encoded: Encoded,
    asked: Asked,
    confidence: Confidence,
    crop: Crop,
    before: PromptedSlice | None,
) -> PromptedSlice:
    return prompt_slice(
        model,
        lambda: encoded(asked.index, crop),
        asked.shape,
        asked.prompts,
        before,
        asked.tracked,
        confidence,
        crop,
    )
