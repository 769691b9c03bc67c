"""What graphs give and take, bundled by what it is: a slice's encoding, a decoded batch, a mask read back later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from kernels.fill_holes import fill_holes
from runtime.bundle.contract import HIGH_RES
from runtime.errors import NotFinite


@dataclass(frozen=True, slots=True)
class Features:
    """Encodings of slices, one after another along the leading axis.

    Attributes:
        tensors: `image_encoder`'s outputs by name.
    """

    tensors: Mapping[str, Buffer]

    @property
    def vision_features(self) -> Buffer:
        """What every network has, (n, C, G, G)."""
        return self.tensors["vision_features"]

    @property
    def attended_features(self) -> Buffer:
        """What memory attention starts from (n, T, C); only a `volume` has it."""
        return self.tensors["attended_features"]

    @property
    def projected_features(self) -> Buffer:
        """What the memory encoder starts from (n, C, G, G); only a `volume` has it."""
        return self.tensors["projected_features"]

    @property
    def high_res(self) -> dict[str, Buffer]:
        """Finer features for the decoder, by the names of its inputs; empty where a network has none."""
        return {name: self.tensors[name] for name in HIGH_RES if name in self.tensors}

    @property
    def size_bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Decoded:
    """`mask_decoder`'s outputs for b rows: raw, selected, gated logits (b, 1, 4 G, 4 G) and scalars (b,)."""

    low_res_masks: Buffer
    ious: Buffer
    object_score_logits: Buffer
    obj_ptr: Buffer


class LowResMask:
    """Logits (4 G, 4 G) of one object on one slice, read back and their holes filled when somebody first asks."""

    def __init__(self, read: Callable[[], NDArray[np.float32]]) -> None:
        self._read: Callable[[], NDArray[np.float32]] | None = read
        self._found: NDArray[np.float32] | None = None
        self._lock = Lock()  # a viewer may look while a run in another thread does

    @property
    def unfilled(self) -> NDArray[np.float32]:
        """Logits as the network gave them: memories of tracked slices are made of these."""
        with self._lock:
            if self._read is not None:
                self._found, self._read = self._read(), None
        assert self._found is not None
        return self._found

    def __getstate__(self) -> NDArray[np.float32]:
        """Give copies and pickles the logits, read back: they go where neither the device nor the lock can."""
        return self.unfilled

    def __setstate__(self, unfilled: NDArray[np.float32]) -> None:
        self._read, self._found, self._lock = None, unfilled, Lock()

    @property
    def nbytes(self) -> int:
        """Of the logits, and of a copy without holes if there is one."""
        unfilled = self.unfilled
        filled: NDArray[np.float32] = vars(self).get("filled", unfilled)  # if somebody has asked
        return unfilled.nbytes + (0 if filled is unfilled else filled.nbytes)

    @cached_property
    def filled(self) -> NDArray[np.float32]:
        """Without holes, as everybody else sees them."""
        return fill_holes(self.unfilled)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the host learns of a decoded row.

    Attributes:
        mask: low-resolution logits.
        iou, object_score: scalars.
        obj_ptr: object pointer (C,).

    Raises NotFinite where scalars or pointer are not, which on a device nobody has looked at before.
    """

    mask: LowResMask
    iou: float
    object_score: float
    obj_ptr: Buffer

    def __post_init__(self) -> None:
        for output, is_finite in (
            ("ious", math.isfinite(self.iou)),
            ("object_score_logits", math.isfinite(self.object_score)),
            ("obj_ptr", np.isfinite(self.obj_ptr).all()),
        ):
            if not is_finite:
                raise NotFinite("mask_decoder", output)
