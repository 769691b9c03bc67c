"""One way into the encoder: slices of one shape, so many at a time, through buffers that stay where they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from kernels.device_array import DeviceArray
from kernels.preprocess import KERNEL as PREPROCESS
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD, ModelNumbers, graph_specs
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.engine import Engine

MOST_SHAPES = 8  # shapes of slices that buffers are kept ready for


class BatchBuffers:
    """Buffers for a batch of raw slices and its encoding. What `encode` gives is overwritten by the next call.

    Args:
        memory: the device's.
        model: numbers of the model.
        shape: (n, y, x) or (n, y, x, 3) of a batch.
    """

    def __init__(self, memory: CudaMemory, model: ModelNumbers, shape: tuple[int, ...]) -> None:
        self._memory = memory
        numbers = {"size": model.image_size, "mean": PIXEL_MEAN, "std": PIXEL_STD}
        self._numbers, self._shapes = numbers, {"images": shape}
        self._buffers = {
            name: memory.empty(sides, dtype)
            for name, (sides, dtype) in PREPROCESS.outputs(self._shapes, numbers).items()
        }
        self._buffers["images"] = memory.empty(shape, "uint8")
        outputs = graph_specs(model)["image_encoder"].outputs
        self._encoded = {
            name: memory.empty(spec.bind({"n": shape[0]}), spec.dtype)
            for name, spec in outputs.items()
        }
        self._staging = memory.device.pinned(shape, "uint8")
        self._sent: Any = None

    def encode(self, pixels: Sequence[Any], engine: Engine) -> dict[str, Any]:
        """Enqueue the encoding of n slices, uint8, each on the host or on the device."""
        device, stream = self._memory.device, self._memory.current
        if self._sent is not None:
            self._sent.sync()  # the batch before has left the staging memory
        for i, image in enumerate(pixels):
            target = self._buffers["images"][i]
            if isinstance(image, DeviceArray):
                device.copy(image, target, stream=stream)
            else:
                self._staging[i] = image
                device.copy(self._staging[i], target, stream=stream)
        self._sent = stream.record()
        device.enqueue(PREPROCESS, self._buffers, self._shapes, self._numbers, stream=stream)
        engine.run({"image": self._buffers["image"]}, self._encoded)
        return self._encoded


class EncodeBuffers:
    """Buffers by the shape of a batch; those unused for longest are given back.

    Args:
        memory: the device's.
        model: numbers of the model.
    """

    def __init__(self, memory: CudaMemory, model: ModelNumbers) -> None:
        self._memory, self._model = memory, model
        self._by_shape: OrderedDict[tuple[int, ...], BatchBuffers] = OrderedDict()

    def of(self, shape: tuple[int, ...]) -> BatchBuffers:
        """Buffers to encode a batch of slices of one shape in."""
        if shape not in self._by_shape:
            self._by_shape[shape] = BatchBuffers(self._memory, self._model, shape)
            while len(self._by_shape) > MOST_SHAPES:
                self._memory.streams.synchronize()
                self._by_shape.popitem(last=False)
        self._by_shape.move_to_end(shape)
        return self._by_shape[shape]
