"""DLPack's capsules, made and read through their C structures (dlpack.h, DLManagedTensor of versions before 1.0).

Every library that speaks DLPack takes this form; the versioned one adds only flags that are not needed here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

CPU, CUDA = 1, 2  # DLDeviceType
KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy's kind to DLDataTypeCode
CAPSULE_NAME, USED_NAME = b"dltensor", b"used_dltensor"


class Type(ctypes.Structure):
    """DLPack's `DLDataType`."""

    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Tensor(ctypes.Structure):
    """DLPack's `DLTensor`; `DLDevice` is written out as its two members."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """DLPack's `DLManagedTensor`."""


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
Managed._fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))

DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
# A destructor is called while its capsule is dying: it must not be handed over as an object once more.
_is_valid = ctypes.PyDLL(None).PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_dying_pointer = ctypes.PyDLL(None).PyCapsule_GetPointer
_dying_pointer.restype, _dying_pointer.argtypes = (
    ctypes.c_void_p,
    (ctypes.c_void_p, ctypes.c_char_p),
)

_lent: dict[int, tuple[Any, ...]] = {}
"""Everything that a capsule's consumer still needs, by the address of its structure."""


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Somebody else's tensor; strides in bytes, None for C order."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None
    device: tuple[int, int]
    owner: Any

    @property
    def is_contiguous(self) -> bool:
        """Whether it is in C order; strides of sides of length 1 say nothing."""
        if self.strides is None or 0 in self.shape:
            return True
        wanted = self.dtype.itemsize
        for side, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if side != 1 and stride != wanted:
                return False
            wanted *= side
        return True


def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _give_back_untaken(capsule: int) -> None:
    if _is_valid(capsule, CAPSULE_NAME):
        _lent.pop(_dying_pointer(capsule, CAPSULE_NAME), None)


_delete, _destroy = DELETER(_give_back), DESTRUCTOR(_give_back_untaken)


def capsule_of(
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    device: tuple[int, int],
    owner: Any,
) -> Any:
    """A capsule around C-ordered memory; `owner` is kept until its consumer lets go. BufferError for an odd dtype."""
    if dtype.kind not in KINDS:
        raise BufferError(f"DLPack has no type for {dtype}")
    sides = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    kind = Type(KINDS[dtype.kind], 8 * dtype.itemsize, 1)
    tensor = Tensor(address, *device, len(shape), kind, sides, None, 0)
    managed = Managed(tensor, None, _delete)
    _lent[ctypes.addressof(managed)] = (managed, sides, owner)
    return _new(ctypes.addressof(managed), CAPSULE_NAME, _destroy)


class ManagedTensor:
    """A capsule that was taken: its tensor is given back when nobody needs it any more."""

    def __init__(self, managed: Managed) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(ctypes.byref(self._managed))


def external_tensor(array: Any, stream: int = -1) -> ExternalTensor:
    """What lies behind somebody's `__dlpack__`; BufferError for a type numpy does not have."""
    where = tuple(array.__dlpack_device__())
    capsule = array.__dlpack__(stream=stream) if where[0] == CUDA else array.__dlpack__()
    managed = Managed.from_address(_pointer(capsule, CAPSULE_NAME))
    _rename(capsule, USED_NAME)
    tensor, lease = managed.tensor, ManagedTensor(managed)
    kinds = {code: kind for kind, code in KINDS.items()}
    if tensor.dtype.code not in kinds or tensor.dtype.lanes != 1:
        raise BufferError(
            f"a DLPack type of code {tensor.dtype.code}; wanted integers, floats or bool"
        )
    kind = kinds[tensor.dtype.code]
    dtype = np.dtype(bool if kind == "b" else f"{kind}{tensor.dtype.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    address = (tensor.data or 0) + tensor.byte_offset
    return ExternalTensor(address, shape, dtype, strides, (where[0], where[1]), lease)
