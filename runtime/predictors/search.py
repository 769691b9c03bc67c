"""The next slice of several chains, each in its search region, and when a chain goes on in a wider one.

It does where its mask comes near to the edge of its crop: there may be more of it outside. The slice is segmented again
then. Regions only ever become wider, each at least twice, so that a few are enough up to the whole slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.bundle.confidence import Confidence
from runtime.model import Model
from runtime.predictors.chain import Chain
from runtime.predictors.encoded import Encoded
from runtime.predictors.memories import Memories
from runtime.predictors.region import Shape
from runtime.predictors.tracked_object import TrackedObject
from runtime.predictors.zoom import Zoom, extent_of
from runtime.track import BatchRow, Segmented, track_step

Look = tuple[TrackedObject, Chain, int]
"""An object, its chain, and the slice that it comes to."""


class Search:
    """Segments slices from memory.

    Args:
        model: runs the graphs.
        memories: of all chains.
        encoded: encodings of slices and crops.
        zoom: how crops are made.
        shape_of: slice number to its (y, x) in pixels.
        confidence: how results are valued.
    """

    def __init__(
        self,
        model: Model,
        memories: Memories,
        encoded: Encoded,
        zoom: Zoom,
        shape_of: Callable[[int], Shape],
        confidence: Confidence,
    ) -> None:
        self._model, self._memories, self._encoded = model, memories, encoded
        self._zoom, self._shape_of, self._confidence = zoom, shape_of, confidence

    def segment(self, looks: Sequence[Look]) -> list[Segmented]:
        """Answers by chain; each one's memory, and perhaps its search region, has moved on with it."""
        answers = self._step(looks)
        try:
            cut = [n for n, look in enumerate(looks) if self._widens(look, answers[n])]
            while cut:
                for obj, chain, _ in (looks[n] for n in cut):
                    self._memories.memorise(obj, chain.search, obj.prompted)
                    chain.bank = self._memories.bank(obj, chain.direction, chain.search)
                for n, segmented in zip(cut, self._step([looks[n] for n in cut]), strict=True):
                    answers[n] = segmented
                cut = [n for n in cut if self._widens(looks[n], answers[n])]
        except Exception:
            for _, chain, _ in looks:  # their memories hold a slice that nobody will hear of
                chain.close()
            raise
        return answers

    def _step(self, looks: Sequence[Look]) -> list[Segmented]:
        rows, number = [], self._encoded.numbering.of
        for _, chain, frame in looks:
            assert chain.bank is not None
            rows.append(BatchRow(chain.bank, frame, number(frame, chain.search.crop)))
        arena, cache = self._memories.arena, self._encoded.cache
        return track_step(self._model, arena, cache, rows, self._confidence)

    def _widens(self, look: Look, segmented: Segmented) -> bool:
        """Whether a mask may be cut by its crop. Its chain has a wider one then, and no memory yet."""
        _, chain, frame = look
        crop, shape = chain.search.crop, self._shape_of(frame)
        if crop is None or frame in chain.steps:  # what is made again stays as it was
            return False
        extent = extent_of(segmented.unfilled, crop, shape)
        if extent is None or not self._zoom.is_at_edge(crop, extent, shape):
            return False
        chain.widen(self._zoom.wider(crop, extent, shape))
        return True
