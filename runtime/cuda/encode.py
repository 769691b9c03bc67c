"""One way into the encoder: slices of one shape, so many at a time, through buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kernels.device_array import device_array, is_device_array
from kernels.preprocess import KERNEL as PREPROCESS
from runtime.contract import PIXEL_MEAN, PIXEL_STD, graph_specs
from runtime.features import Encoder

if TYPE_CHECKING:
    from runtime.cuda.place import CudaPlace


class Lane:
    """Buffers for a batch of raw slices and its encoding. What `encode` gives is overwritten by the next call.

    Args:
        place: the device.
        model: does the encoding.
        shape: (n, y, x) or (n, y, x, 3) of a batch.
    """

    def __init__(self, place: CudaPlace, model: Encoder, shape: tuple[int, ...]) -> None:
        self._place, self._model = place, model
        numbers = {"size": model.numbers.image_size, "mean": PIXEL_MEAN, "std": PIXEL_STD}
        self._numbers, self._shapes = numbers, {"images": shape}
        self._buffers = {
            name: place.empty(made, dtype)
            for name, (made, dtype) in PREPROCESS.outputs(self._shapes, numbers).items()
        }
        self._buffers["images"] = place.empty(shape, "uint8")
        outputs = graph_specs(model.numbers)["image_encoder"].outputs
        self._encoded = {
            name: place.empty(spec.bind({"n": shape[0]}), spec.dtype)
            for name, spec in outputs.items()
        }
        self._staging = place.device.pinned(shape, "uint8")
        self._sent: Any = None

    def encode(self, pixels: Sequence[Any]) -> dict[str, Any]:
        """Enqueue the encoding of n slices, uint8, each on the host or in CUDA memory."""
        place = self._place
        stream = place.current
        if self._sent is not None:
            self._sent.sync()  # the batch before has left the staging memory
        for i, image in enumerate(pixels):
            target = self._buffers["images"][i]
            if is_device_array(image):
                source = device_array(image, int(stream.handle))
                if source.stream is not None:
                    stream.wait(place.device.foreign_stream(source.stream))
                place.device.copy(source, target, stream=stream)
            else:
                self._staging[i] = image
                place.device.copy(self._staging[i], target, stream=stream)
        self._sent = stream.record()
        place.device.enqueue(PREPROCESS, self._buffers, self._shapes, self._numbers, stream=stream)
        engine = self._model.engine("image_encoder")
        engine.run({"image": self._buffers["image"]}, self._encoded)
        return self._encoded
