"""Geometry that is not a number is refused: NaN is neither above nor below a tolerance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime import Volume
from runtime.errors import SeriesError, VolumeError
from runtime.io.volumes.stack import ImagePlane, stack_planes

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def planes() -> list[ImagePlane]:
    return [ImagePlane(f"{i}.dcm", (0.0, 0.0, 2.0 * i), AXIAL) for i in range(4)]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("axis", range(3))
def test_a_position_that_is_none(wrong: float, which: int, axis: int) -> None:
    found = planes()
    position = list(found[which].position_mm)
    position[axis] = wrong
    found[which] = ImagePlane("wrong.dcm", tuple(position), AXIAL)
    with pytest.raises(SeriesError):
        stack_planes(found)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("number", range(6))
def test_an_orientation_that_is_none(wrong: float, which: int, number: int) -> None:
    found = planes()
    orientation = list(AXIAL)
    orientation[number] = wrong
    found[which] = ImagePlane("wrong.dcm", found[which].position_mm, tuple(orientation))
    for series in (found, [found[which]]):
        with pytest.raises(SeriesError):
            stack_planes(series)


@pytest.mark.parametrize(
    "direction",
    [
        (1e200, 1e200, 0.0, -1e200, 1e200, 0.0, 0.0, 0.0, 1.0),  # its products are inf - inf
        (np.nan, *np.eye(3).ravel()[1:]),
    ],
)
def test_a_direction_whose_products_are_none(direction: tuple[float, ...]) -> None:
    sound = Volume.from_array(np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(VolumeError):
        replace(sound, direction=direction)
