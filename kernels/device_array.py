"""A tensor in device memory, which other libraries take without a copy: numpy, torch, cupy, numba and pycuda.

Both ways lead through the CUDA array interface (version 3, numba's documentation) and DLPack (`kernels.dlpack`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.dlpack import CUDA, ExternalTensor, capsule_of, external_tensor

# A tensor wherever it lies: a numpy array on the host, or a `DeviceArray`, which has shape, dtype and items like one.
Buffer = NDArray[np.generic]


class DeviceArray:
    """A C-contiguous tensor. A view shares the memory, and keeps it, of what it was taken from.

    Attributes:
        address: of the first element.
        shape, dtype: as numpy's.
        owner: what keeps the memory; never looked at.
        stream: handle of the stream in whose order the contents are ready; None if they are.
        device: DLPack's device type and ordinal.
    """

    __slots__ = ("address", "device", "dtype", "owner", "shape", "stream")

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: str | np.dtype[Any],
        owner: Any = None,
        stream: int | None = None,
        device: tuple[int, int] = (CUDA, 0),
    ) -> None:
        self.address, self.shape, self.dtype = address, tuple(shape), np.dtype(dtype)
        self.owner, self.stream, self.device = owner, stream, device

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the contents in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> DeviceArray:
        """An item, or a range of them, along the leading axis; IndexError outside, ValueError for a step."""
        row = self.nbytes // max(len(self), 1)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise ValueError(f"a view with step {step}; wanted neighbours")
            return self._view(start * row, (max(stop - start, 0), *self.shape[1:]))
        if not -len(self) <= key < len(self):
            raise IndexError(f"item {key} of {len(self)}")
        return self._view(key % len(self) * row, self.shape[1:])

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same memory in another shape; one side may be -1. ValueError if the sizes differ."""
        fixed = math.prod(side for side in shape if side != -1)
        sides = tuple(self.size // max(fixed, 1) if side == -1 else side for side in shape)
        if math.prod(sides) != self.size:
            raise ValueError(f"{self.shape} is not {shape}")
        return self._view(0, sides)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.device[0] != CUDA:
            raise AttributeError("not in CUDA memory")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule; the consumer's stream does not matter where `stream` of this array is None.

        Raises BufferError if a copy or another device is asked for.
        """
        if copy or dl_device not in (None, self.device):
            raise BufferError("this memory is lent as it is: no copy, no other device")
        return capsule_of(self.address, self.shape, self.dtype, self.device, self.owner)

    def _view(self, offset: int, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(
            self.address + offset, shape, self.dtype, self.owner, self.stream, self.device
        )


def is_device_array(array: object) -> bool:
    """Whether an object says that it lies in CUDA memory."""
    if isinstance(array, DeviceArray) or hasattr(array, "__cuda_array_interface__"):
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] == CUDA


def device_array(array: Any, stream: int = -1) -> DeviceArray:
    """Anybody's array in CUDA memory as ours, without a copy.

    Args:
        array: has `__cuda_array_interface__` or `__dlpack__`.
        stream: handle of the stream it will be read on; -1 leaves the order to the caller.

    Raises ValueError if it is not C-contiguous, TypeError if it has neither interface. Contents that its owner has only
    enqueued are ready in the order of `stream` of what is returned.
    """
    if isinstance(array, DeviceArray):
        return array
    # DLPack first: with it the owner orders the streams, which torch's other interface does not.
    if hasattr(array, "__dlpack__"):
        external, ready = external_tensor(array, stream), None
    elif (interface := getattr(array, "__cuda_array_interface__", None)) is not None:
        dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
        strides = interface.get("strides")
        external = ExternalTensor(interface["data"][0], shape, dtype, strides, (CUDA, 0), array)
        ready = interface.get("stream")
    else:
        raise TypeError(
            f"{type(array).__name__} has neither __cuda_array_interface__ nor __dlpack__"
        )
    if not external.is_contiguous:
        raise ValueError(
            f"an array {external.shape} with strides {external.strides}; wanted C order: "
            "make it contiguous on the device"
        )
    return DeviceArray(
        external.address, external.shape, external.dtype, external.owner, ready, external.device
    )
