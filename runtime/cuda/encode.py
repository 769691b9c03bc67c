"""One way into the encoder: slices of one shape, so many at a time, through buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kernels.device_array import DeviceArray
from kernels.preprocess import KERNEL as PREPROCESS
from runtime.backends.base import Engine
from runtime.contract import PIXEL_MEAN, PIXEL_STD, graph_specs

if TYPE_CHECKING:
    from runtime.cuda.place import CudaPlace


class Lane:
    """Buffers for a batch of raw slices and its encoding. What `encode` gives is overwritten by the next call.

    Args:
        place: the device.
        shape: (n, y, x) or (n, y, x, 3) of a batch.
    """

    def __init__(self, place: CudaPlace, shape: tuple[int, ...]) -> None:
        self._place = place
        numbers = {"size": place.numbers.image_size, "mean": PIXEL_MEAN, "std": PIXEL_STD}
        self._numbers, self._shapes = numbers, {"images": shape}
        self._buffers = {
            name: place.empty(made, dtype)
            for name, (made, dtype) in PREPROCESS.outputs(self._shapes, numbers).items()
        }
        self._buffers["images"] = place.empty(shape, "uint8")
        outputs = graph_specs(place.numbers)["image_encoder"].outputs
        self._encoded = {
            name: place.empty(spec.bind({"n": shape[0]}), spec.dtype)
            for name, spec in outputs.items()
        }
        self._staging = place.device.pinned(shape, "uint8")
        self._sent: Any = None

    def encode(self, pixels: Sequence[Any], engine: Engine) -> dict[str, Any]:
        """Enqueue the encoding of n slices, uint8, each on the host or on the device."""
        place = self._place
        stream = place.current
        if self._sent is not None:
            self._sent.sync()  # the batch before has left the staging memory
        for i, image in enumerate(pixels):
            target = self._buffers["images"][i]
            if isinstance(image, DeviceArray):
                place.device.copy(image, target, stream=stream)
            else:
                self._staging[i] = image
                place.device.copy(self._staging[i], target, stream=stream)
        self._sent = stream.record()
        place.device.enqueue(PREPROCESS, self._buffers, self._shapes, self._numbers, stream=stream)
        engine.run({"image": self._buffers["image"]}, self._encoded)
        return self._encoded
