"""Which way up a slice is shown: as radiologists look at it, from the directions of a volume's axes.

The patient's right is on the left of axial and coronal pictures, the front on the left of sagittal ones; the head is
up, or the front in axial ones. World axes are DICOM's: x towards the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.volume import IDENTITY, Volume

# Plane -> world axis that its slices follow each other along, and where the right and the lower edge of a picture lie.
PLANES = {
    "axial": (2, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": (1, (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": (0, (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
}
LETTERS = ("LR", "PA", "SI")  # what lies along each world axis, and against it
OBLIQUE = 0.26  # the sine of 15 degrees: an axis that leans so far towards another one carries its letter too

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Edges:
    """Letters at the edges of a picture: towards what in the patient each one lies, such as R, or AL where oblique."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True, slots=True)
class View:
    """How slices (y, x) become pictures: transposed first, then turned round.

    Attributes:
        plane: "axial", "coronal", "sagittal", one of them with "oblique" before it, or "" where nobody knows.
        is_transposed: y runs across the picture, and x down.
        flips: whether the picture is turned upside down, and whether left and right are exchanged.
        edges: letters, or None where nobody knows.
    """

    plane: str = ""
    is_transposed: bool = False
    flips: tuple[bool, bool] = (False, False)
    edges: Edges | None = None

    def show(self, plane: NDArray[T]) -> NDArray[T]:
        """A slice (y, x), or (y, x, 3) in colour, as it is to be seen: (row, column)."""
        plane = plane.swapaxes(0, 1) if self.is_transposed else plane
        return plane[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]

    def in_order(self, yx: tuple[float, float]) -> tuple[float, float]:
        """Two figures of y and x, such as pixel sizes, as figures of rows and columns."""
        return (yx[1], yx[0]) if self.is_transposed else yx

    def place(self, y: float, x: float, shape: tuple[int, int]) -> tuple[float, float]:
        """Row and column, in the picture, of a place on a slice of `shape` (y, x); pixels are squares of side 1."""
        row, column = self.in_order((y, x))
        height, width = self.in_order(shape)
        return (
            height - row if self.flips[0] else row,
            width - column if self.flips[1] else column,
        )


AS_STORED = View()


def view_of(volume: Volume) -> View:
    """How to show a volume's slices; as they are stored if nobody has said how it lies in the patient.

    A volume whose directions and origin are nothing but defaults comes from an array, or a file without geometry.
    """
    return view_along(volume.direction) if _is_placed(volume) else AS_STORED


def has_spacing(volume: Volume) -> bool:
    """Whether somebody has said how large voxels are, or millimetres are nothing but a default."""
    return _is_placed(volume) or any(step != 1 for step in volume.spacing_mm)


def _is_placed(volume: Volume) -> bool:
    return volume.direction != IDENTITY or any(volume.origin_mm)


def view_along(direction: Sequence[float]) -> View:
    """How to show slices of a volume whose axes run so (row-major 3 x 3, as `Volume.direction`)."""
    x, y, z = np.reshape(direction, (3, 3)).T
    normal, wanted_right, wanted_down = PLANES[_nearest(z)]
    choices = []
    for is_transposed, up, left in product((False, True), repeat=3):
        down, right = (x, y) if is_transposed else (y, x)
        down, right = (-down if up else down), (-right if left else right)
        choices.append(
            (right @ wanted_right + down @ wanted_down, is_transposed, (up, left), right, down)
        )
    _, is_transposed, flips, right, down = max(choices, key=lambda choice: choice[0])
    edges = Edges(_letters(-right), _letters(right), _letters(-down), _letters(down))
    is_oblique = np.delete(np.abs(z), normal).max() > OBLIQUE
    plane = f"oblique {_nearest(z)}" if is_oblique else _nearest(z)
    return View(plane, is_transposed, flips, edges)


def _nearest(normal: NDArray[np.float64]) -> str:
    """The plane whose slices follow each other most nearly along `normal`."""
    axis = int(np.argmax(np.abs(normal)))
    return next(name for name, (along, _, _) in PLANES.items() if along == axis)


def _letters(towards: NDArray[np.float64]) -> str:
    """Letters of what lies in a direction, the strongest first."""
    axes = sorted(range(3), key=lambda axis: -abs(towards[axis]))
    strong = [axis for axis in axes if axis == axes[0] or abs(towards[axis]) > OBLIQUE]
    return "".join(LETTERS[axis][int(towards[axis] < 0)] for axis in strong)
