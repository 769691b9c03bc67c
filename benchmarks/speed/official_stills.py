"""Official networks of single images as a contender, timed like `runtime.measure.latency.time_stills`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.speed.devices import timed_ms
from benchmarks.speed.official_sam1 import load_official, official_sam1
from export.model.sam1 import Sam1
from export.variants import VARIANTS
from runtime.errors import BackendUnavailable
from runtime.measure.latency import TimedRun
from runtime.measure.phantom import NUM_OBJECTS, Phantom
from runtime.predictors.framing import Framing
from runtime.steps.features import prepared


class OfficialStills:
    """`segment-anything` on each slice of a phantom; of LiteMedSAM, its decoder behind timm's encoder.

    Images are prepared and boxes scaled beforehand, which counts for it: ours does so within its time.

    Args:
        model: whose weights to take.
        kind: "eager"; upstream has nothing else.
        autocast: dtype to autocast to; None is fp32 throughout.
        device: where PyTorch runs it.

    Raises BackendUnavailable for another kind.
    """

    def __init__(self, model: Sam1, kind: str, autocast: torch.dtype | None, device: str) -> None:
        if kind != "eager":
            raise BackendUnavailable(f"segment-anything has nothing like {kind}")
        self._numbers = model.numbers
        self._network = official_sam1(VARIANTS[model.numbers.name])
        load_official(self._network, model.state_dict())
        self._network.to(device)
        self._autocast, self._device = autocast, device
        precision = "fp32" if autocast is None else str(autocast).removeprefix("torch.")
        self.description = (
            f"segment-anything 1.0, PyTorch {torch.__version__}, {device}, {precision}"
        )

    def run(self, phantom: Phantom, num_objects: int) -> TimedRun:
        """Box each object on each slice from the middle to the last, taking the time."""
        middle = len(phantom.pixels) // 2
        images = {i: self._image(phantom.pixels[i]) for i in range(middle, len(phantom.pixels))}
        boxes = self._boxes(phantom, num_objects)
        logits: dict[tuple[int, int], np.ndarray] = {}
        times = []
        with torch.inference_mode(), self._mixed():
            for index, image in images.items():
                times.append(self._timed(partial(self._segment, index, image, boxes, logits)))
        return TimedRun([{"total": ms} for ms in times[1:]], times[0], logits)

    def volume_ms(self, phantom: Phantom, num_objects: int) -> float:
        """From prepared images on the host to the masks of all slices, with the same boxes on each."""
        images = [self._image(pixels) for pixels in phantom.pixels]
        boxes = self._boxes(phantom, num_objects)

        def segment() -> None:
            for index, image in enumerate(images):
                self._segment(index, image, boxes, {})

        with torch.inference_mode(), self._mixed():
            return self._timed(segment)

    def _segment(
        self,
        index: int,
        image: torch.Tensor,
        boxes: torch.Tensor,
        logits: dict[tuple[int, int], np.ndarray],
    ) -> None:
        network, size = self._network, self._numbers.image_size
        features = network.image_encoder(image.to(self._device))
        position = network.prompt_encoder.get_dense_pe()
        for object_id, box in enumerate(boxes, 1):
            sparse, dense = network.prompt_encoder(points=None, boxes=box[None], masks=None)
            low_res, _ = network.mask_decoder(features, position, sparse, dense, False)
            (F.interpolate(low_res, (size, size), mode="bilinear") > 0).cpu()
            logits[index, object_id] = low_res[0, 0].float().cpu().numpy()

    def _image(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(prepared(self._numbers, pixels))

    def _boxes(self, phantom: Phantom, num_objects: int) -> torch.Tensor:
        framing = Framing.of(self._numbers, phantom.pixels.shape[1:])
        middle = len(phantom.pixels) // 2
        corners = [
            framing.corners(phantom.box(middle, i % NUM_OBJECTS + 1)) for i in range(num_objects)
        ]
        return torch.tensor(corners, dtype=torch.float32, device=self._device)

    def _mixed(self) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(self._device).type, self._autocast)

    def _timed(self, do: Callable[[], object]) -> float:
        return timed_ms(do, self._device)
