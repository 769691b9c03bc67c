"""Volumes: prompt any slices, then follow every object through the stack in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.io.volumes.volume import Volume
from runtime.io.window import Window
from runtime.memory import MemoryRules
from runtime.model import Model
from runtime.predictors.chosen import AUTO, Auto, memory_rules, smoothing, stop_rule, zoom_factor
from runtime.predictors.eight_bits import eight_bits
from runtime.predictors.encoded import Encoded
from runtime.predictors.footprint import Footprint
from runtime.predictors.prompted import check_prompts
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.stop import StopRule
from runtime.predictors.tracker import BACKWARD, FORWARD, Tracker
from runtime.predictors.tracking import TrackingPredictor
from runtime.predictors.volume_plan import check_slices, checked, encoded, plans, slices_ahead
from runtime.predictors.zoom import Zoom
from runtime.prompts.prompts import Prompt
from runtime.steps.encodings import Encodings
from runtime.steps.features import ReadSlice, check_bound


class VolumePredictor(TrackingPredictor):
    """Segments objects in a volume from prompts on some of its slices.

    Each object's two directions are chains of their own that start at its first prompted slice, share its prompted
    slices and never see each other's results, as in MedSAM2; all chains advance together as one batch. Each slice
    is encoded once, when it is first needed, and stays encoded until the volume changes.

    Prompts may be added, corrected and taken back at any time. An object whose prompts have not changed is not
    computed again, and a run that was cancelled or limited to some slices is continued by the next one. Threads that
    use one predictor take turns, slice by slice; of two runs the one that began later goes on.

    Example:
        predictor = VolumePredictor(load())
        predictor.set_volume(read_volume("ct.nii.gz"))
        predictor.add(Box(slice=57, y=(200, 260), x=(180, 250)))
        result = predictor.propagate()
        first = result.review(5)                                # where to look
        predictor.add(Point(slice=71, y=230, x=214, positive=False))
        result = predictor.propagate()

    Args:
        model: what `load` gives.
        memory: policy and pick-up; "auto" is what the bundle has chosen (`Model.defaults`), None SAM 2's own memory.
        max_feature_bytes: of encoded slices to hold; None is a third of the machine's memory. A slice beyond them is
            encoded again when it is needed.
        encodings: of the same model, to be shared with other predictors, also of other volumes; they have a bound of
            their own. None keeps this predictor's apart.
        zoom: side of the crop that the network is shown, in extents of the object (`runtime.predictors.zoom`), such as
            3.0; "auto" is what the bundle has chosen, None shows it whole slices. A crop follows an object that grows
            or drifts by becoming wider.
        smooth: sigma of the Gaussian over a mask's logits, in pixels of the network's answer, such as 0.7, for even
            contours; "auto" is what the bundle has chosen, None smooths nothing. What is remembered stays as it was.

    Raises InputError if the rules of memory, or the encodings, do not fit the model, or zoom or smooth is none,
    BundleError for a model without memory.
    """

    nothing_yet = "no volume yet; call set_volume first"

    def __init__(
        self,
        model: Model,
        memory: MemoryRules | Auto | None = AUTO,
        max_feature_bytes: int | None = None,
        encodings: Encodings | None = None,
        zoom: float | Auto | None = AUTO,
        smooth: float | Auto | None = AUTO,
    ) -> None:
        super().__init__(model)
        check_bound(max_feature_bytes)
        self._max_feature_bytes = max_feature_bytes
        self._factor, self._encodings = zoom_factor(model, zoom), encodings
        self._smooth = smoothing(model, smooth)
        if encodings is not None and getattr(encodings, "model", None) is not model:
            raise InputError("the encodings are of another model; make them with this one")
        self._rules = memory_rules(model, memory)
        self._shape = (0, 0, 0)
        self.pixels: NDArray[np.uint8] = np.zeros((0, 0, 0), np.uint8)
        """The volume after its window, (z, y, x)."""

    def set_volume(
        self, volume: Volume | NDArray[np.generic], window: str | Window = "auto"
    ) -> Window:
        """Take a volume; objects and prompts of the one before are forgotten.

        Args:
            volume: what `read_volume` gives, or an array (z, y, x). With a back end on a CUDA device it may lie there
                (`__cuda_array_interface__` or DLPack): uint8 is read in place, anything else, and all with zoom,
                comes to the host once, where its window is worked out and crops are cut.
            window: how intensities become eight bits, see `runtime.io.window.apply_window`.

        Returns the window used. Raises VolumeError or InputError.
        """
        pixels, used = eight_bits(
            self._model.device_memory, volume, window, is_on_host=self._factor is not None
        )
        spacing_mm = volume.spacing_mm[1:] if isinstance(volume, Volume) else (1.0, 1.0)
        depth, height, width = pixels.shape
        self.set_slices(lambda index: pixels[index], (depth, height, width), spacing_mm)
        self.pixels = pixels
        return used

    def set_slices(
        self,
        read_slice: ReadSlice,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """Take uint8 slices (y, x) that are read by number when they are needed, the same ones each time.

        `shape` is (z, y, x) of all, `spacing_mm` of pixels (y, x); `pixels` is empty then. Raises InputError for a
        shape or spacing that is none; whatever asks for a slice does so if that is not as it was said to be.
        """
        check_slices(shape, spacing_mm)
        self._shape, depth = shape, shape[0]
        shapes = self._shapes = (shape[1:],) * depth
        self.pixels = np.zeros((0, 0, 0), np.uint8)
        self._tracker = None  # what it holds is taken over
        source = self._model if self._encodings is None else self._encodings
        seen = Encoded(source, checked(read_slice, shape), self._max_feature_bytes)
        zoom = Zoom(self._factor, self._model.numbers.image_size, spacing_mm)
        self._tracker = Tracker(
            self._model, self._rules, seen, zoom, shapes.__getitem__, depth, smooth=self._smooth
        )

    def pixels_on_host(self) -> NDArray[np.uint8]:
        """`pixels` as numpy's, wherever they are."""
        return self._model.device_memory.get(self.pixels)

    def another_view(self, read_slice: ReadSlice, shape: tuple[int, int, int]) -> VolumePredictor:
        """A predictor of the same model and rules for other slices, such as planes along another axis."""
        rules, bound = self._rules, self._max_feature_bytes
        view = VolumePredictor(self._model, rules, bound, None, self._factor, self._smooth)
        view.set_slices(read_slice, shape)
        return view

    def add(self, *prompts: Prompt, object_id: int = 1, at_once: bool = False) -> SliceMask:
        """Prompt one object on one slice and see the result at once.

        Points join earlier ones on their slice and correct the mask that is there, also one that a run has found; a
        box (with or without points) or a mask starts the slice anew. During a run the slice is read as prompted
        from the next step on.

        With `at_once` points are answered together with the box and points before them on their slice, rather than as a
        correction of the mask those gave; not where tracking came first.

        Raises PromptError if the prompts do not fit the volume or each other.
        """
        tracker = self._need_tracker()
        check_prompts(prompts, self._shape)
        return tracker.add(prompts, object_id, at_once)

    def mark(self) -> None:
        """Have the next `undo` come back to here, and take back what runs have found since."""
        self._need_tracker().history.mark()

    def forget_oldest(self, count: int = 1) -> None:
        """Give up undoing the oldest changes, and the results that are kept for it; what is drawn stays."""
        self._need_tracker().history.forget(count)

    def forget_redo(self, count: int | None = None) -> None:
        """Give up redoing the changes that are furthest from what there is now; None is all of them."""
        self._need_tracker().history.forget_redo(count)

    def footprints(self) -> tuple[Footprint, Footprint]:
        """What the objects hold as they are, and what is kept for undo and redo, which may be partly the same."""
        return self._need_tracker().history.footprints()

    def encode_ahead(self, order: Iterable[int] | None = None) -> Iterator[int]:
        """Encode slices before anybody asks for them, one each time that the iterator is asked for the next.

        Args:
            order: of their numbers; None is outwards from the middle one.

        Gives the number of each slice once it is encoded. Raises InputError for a slice that is not there.
        """
        tracker = self._need_tracker()
        return encoded(tracker, slices_ahead(order, tracker.num_slices))

    def num_results(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
    ) -> int:
        """How many slice masks `stream` will give if nothing stops it, for progress bars."""
        if (tracker := self._tracker) is None or not tracker.objects:
            return 0
        planned = plans(tracker, z_range, directions)
        objects = [*tracker.objects.items()]  # others may add some meanwhile
        prompted = sum(len(obj.prompted) for i, obj in objects if i in planned)
        return prompted + sum(len(frames) for plan in planned.values() for frames in plan.values())

    def stream(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
        stop: StopRule | Auto | None = AUTO,
    ) -> Iterator[SliceMask]:
        """Masks as they are made: prompted slices first, then outwards from them.

        Args:
            z_range: half-open range of slices to stay within; None is the whole volume.
            directions: +1 towards higher slices, -1 towards lower ones.
            stop: when an object is followed no further in a direction; "auto" is what the bundle has chosen, None
                follows it through all. A later run with another rule goes on from there.

        Raises PromptError without prompts or with one outside `z_range`, InputError for arguments that do not fit.
        """
        return (mask for mask in self.steps(z_range, directions, stop) if mask is not None)

    def steps(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
        stop: StopRule | Auto | None = AUTO,
    ) -> Iterator[SliceMask | None]:
        """The same, for those who share a thread: None comes where an earlier slice's memory was made again."""
        tracker = self._need_tracker()
        plans(tracker, z_range, directions)  # says at once what does not fit
        run = self._runs.make(stop_rule(self._model, stop))
        return tracker.run(run, lambda: plans(tracker, z_range, directions))

    def propagate(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
        stop: StopRule | Auto | None = AUTO,
    ) -> Result:
        """Follow every object through the volume; arguments and errors as for `stream`."""
        tracker, run = self._need_tracker(), self._runs.make(stop_rule(self._model, stop))
        return self._collected(tracker, run, lambda: plans(tracker, z_range, directions))
