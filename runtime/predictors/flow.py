"""Image sets: unrelated 2-D images of the same kind of thing, one prompt on any of them, the rest segmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.slot_similarity import slot_similarity
from runtime.errors import InputError, PromptError
from runtime.memory import MemoryRules
from runtime.model import Model
from runtime.predictors.chain import Plan
from runtime.predictors.chosen import memory_rules
from runtime.predictors.encoded import Encoded
from runtime.predictors.image import check_image, listed
from runtime.predictors.prompted import check_prompts
from runtime.predictors.result import Result, SliceMask, check_smooth
from runtime.predictors.runs import Run
from runtime.predictors.tracker import FORWARD, Tracker
from runtime.predictors.tracking import TrackingPredictor
from runtime.predictors.zoom import Zoom, check_zoom
from runtime.prompts.prompts import Prompt, check_kind, is_whole, shown
from runtime.steps.features import check_bound

Order = Literal["given", "similar"]
ORDERS: tuple[Order, ...] = ("given", "similar")


class FlowPredictor(TrackingPredictor):
    """Segments a set of images from a prompt on one of them, or on several.

    The images have no order: memories carry no temporal code, and what is remembered of them is decided by the
    policy. A prompt's `slice` is the number of its image.

    Example:
        predictor = FlowPredictor(load(), MemoryRules(policy="self_sorting", pick_up="weighted"))
        predictor.set_images(images)                              # uint8, (y, x) or (y, x, 3), of any sizes
        predictor.add(Box(slice=3, y=(80, 160), x=(70, 150)))
        result = predictor.propagate(order="similar")
        masks = [result.labels_of(i) for i in range(len(images))]

    Args:
        model: what `load` gives.
        memory: policy and pick-up; None keeps the latest images.
        max_feature_bytes: of encoded images to hold; None is a third of the machine's memory.
        zoom, smooth: as for volumes; None is off.

    Raises InputError if the rules of memory do not fit the model, BundleError if it has no memory.
    """

    is_ordered = False
    nothing_yet = "no images yet; call set_images first"

    def __init__(
        self,
        model: Model,
        memory: MemoryRules | None = None,
        max_feature_bytes: int | None = None,
        zoom: float | None = None,
        smooth: float | None = None,
    ) -> None:
        super().__init__(model)
        check_bound(max_feature_bytes)
        self._max_feature_bytes = max_feature_bytes
        self._zoom = Zoom(check_zoom(zoom), model.numbers.image_size)
        self._smooth = check_smooth(smooth)
        self._rules = memory_rules(model, memory)

    def set_images(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Take images, uint8 (y, x) or (y, x, 3); objects and prompts of those before are forgotten.

        Raises InputError for an empty set, for an image of another kind, and where grey and colour are mixed.
        """
        taken = [self._model.device_memory.take(image) for image in listed(images)]
        if self._zoom.factor is not None:  # crops are taken on the host
            taken = [self._model.device_memory.get(image) for image in taken]
        for index, image in enumerate(taken):
            check_image(image, f"image {index}")
            if image.ndim != taken[0].ndim:
                kinds = {2: "grey", 3: "colour"}
                raise InputError(
                    f"image 0 is {kinds[taken[0].ndim]}, image {index} is {kinds[image.ndim]}; wanted all of one "
                    "kind: convert the set to grey, or repeat the grey ones over three channels"
                )
        shapes = self._shapes = tuple(image.shape[:2] for image in taken)
        encoded = Encoded(self._model, lambda index: taken[index], self._max_feature_bytes)
        self._tracker = Tracker(
            self._model,
            self._rules,
            encoded,
            self._zoom,
            shapes.__getitem__,  # of this set, whatever is set while a stream goes on
            len(taken),
            is_ordered=False,
            smooth=self._smooth,
        )

    def add(self, *prompts: Prompt, object_id: int = 1) -> SliceMask:
        """Prompt one object on one image and see the result at once; rules and errors as for volumes."""
        tracker = self._need_tracker()
        for prompt in prompts:
            check_kind(prompt)
            if not is_whole(prompt.slice) or not 0 <= prompt.slice < len(self._shapes):
                raise PromptError(
                    f"there is no image {shown(prompt.slice)}: images are 0 to {len(self._shapes) - 1}"
                )
        shape = self._shapes[prompts[0].slice] if prompts else (0, 0)
        check_prompts(prompts, (len(self._shapes), *shape))
        return tracker.add(prompts, object_id)

    def num_results(self) -> int:
        """How many masks `stream` will give, for progress bars."""
        return len(self._shapes) * len(self._need_tracker().objects)

    def stream(self, order: Order = "given") -> Iterator[SliceMask]:
        """Masks as they are made: prompted images first.

        Args:
            order: of the others. "given" is theirs; "similar" begins with those most alike to a prompted image,
                and encodes all images first.

        Raises PromptError without prompts, InputError for an unknown order.
        """
        tracker = self._need_tracker()
        _check(tracker, order)  # says at once what does not fit
        run = self._runs.make()
        masks = tracker.run(run, lambda: self._plans(tracker, run, order))
        return (mask for mask in masks if mask is not None)

    def propagate(self, order: Order = "given") -> Result:
        """Segment every object on all images; arguments and errors as for `stream`."""
        tracker, run = self._need_tracker(), self._runs.make()
        return self._collected(tracker, run, lambda: self._plans(tracker, run, order))

    def _plans(self, tracker: Tracker, run: Run, order: Order) -> dict[int, Plan]:
        _check(tracker, order)
        plans: dict[int, Plan] = {}
        for object_id, obj in tracker.objects.items():
            others = [i for i in range(tracker.num_slices) if i not in obj.prompted]
            if order == "similar":
                others = self._by_similarity(tracker, run, others, sorted(obj.prompted))
            plans[object_id] = {FORWARD: others}
        return plans

    def _by_similarity(
        self, tracker: Tracker, run: Run, others: list[int], prompted: list[int]
    ) -> list[int]:
        """Numbers of images, those most alike to any prompted image first, equals in the order given."""
        get = self._model.device_memory.get
        embeddings = np.stack([get(tracker.embedding(i)) for i in prompted])
        best = {}
        for i in others:
            if run.is_cancelled:
                return []
            best[i] = slot_similarity(
                embeddings, range(len(embeddings)), get(tracker.embedding(i))
            ).max()
        return sorted(others, key=lambda i: -best[i])


def _check(tracker: Tracker, order: Order) -> None:
    if order not in ORDERS:
        raise InputError(f"no order '{order}'; there are: {', '.join(ORDERS)}")
    if not tracker.objects:
        raise PromptError("no prompt yet; call add first")
