"""A volume seen along all three axes: six chains, one prediction (MedSAM-2 v2, section 3.3).

The axial run comes first, from the user's prompts. Along each other axis the object is prompted with the tight box of
that run's mask on the plane where its mask on the prompted slice is widest, and followed both ways as far as the run
found it. Planes across thick slices are stretched to square pixels and padded to a square, so that shapes are true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.errors import InputError
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.volume import VolumePredictor
from runtime.prompts.prompts import Box

MARGIN = 0.1  # of the object's extent along an axis, to either side: where the first run may have stopped short
EDGE = 1e-4  # keeps logits of fused probabilities finite
MAX_SIDE = (
    8192  # of a stretched plane in pixels, as a picture may have: no network looks closer by far
)
Probabilities = NDArray[np.float32]


def mean(votes: list[Probabilities]) -> Probabilities:
    """`mean`: of the probabilities."""
    return np.asarray(np.mean(votes, 0), np.float32)


def vote(votes: list[Probabilities]) -> Probabilities:
    """`vote`: the share of axes along which a voxel is inside."""
    return np.asarray(np.mean([probabilities > 0.5 for probabilities in votes], 0), np.float32)


FUSIONS: dict[str, Callable[[list[Probabilities]], Probabilities]] = {"mean": mean, "vote": vote}


def fuse_orientations(
    predictor: VolumePredictor,
    result: Result,
    spacing_mm: tuple[float, float, float],
    fusion: str = "mean",
    on_slice: Callable[[int], object] = lambda total: None,
    on_encoded: Callable[[int], object] = lambda count: None,
) -> Result:
    """Segment along the two other axes what a run has found along the first, and fuse all three.

    Args:
        predictor: with the volume and the prompts of the run.
        result: of its `propagate`.
        spacing_mm: (z, y, x).
        fusion: a key of `FUSIONS`.
        on_slice: called for every plane done, with how many there are in all.
        on_encoded: called for every other axis, with how many planes and crops of planes were encoded there.

    Returns a result of the same slices at the volume's resolution. Raises InputError for an unknown fusion, and as
    `check_planes`.
    """
    if fusion not in FUSIONS:
        raise InputError(f"no fusion '{fusion}'; there are: {', '.join(FUSIONS)}")
    check_planes(result.shape, spacing_mm)
    courses = {
        object_id: _courses(_axial(result, object_id), result, object_id)
        for object_id in result.slices
    }
    total = sum(course.stop - course.start for of in courses.values() for course in of)
    along: dict[int, list[Probabilities]] = {object_id: [] for object_id in result.slices}
    for axis in (1, 2):
        of_axis = {i: course for i, of in courses.items() for course in of if course.axis == axis}
        for object_id, probabilities in _follow(
            predictor, of_axis, spacing_mm, axis, lambda: on_slice(total), on_encoded
        ):
            along[object_id].append(probabilities)
    slices: dict[int, Mapping[int, SliceMask]] = {}
    for object_id, masks in result.slices.items():
        votes = [_axial(result, object_id)]
        for axis in (1, 2):
            votes.append(np.zeros_like(votes[0]))
            for course in [course for course in courses[object_id] if course.axis == axis]:
                planes = np.moveaxis(votes[-1], axis, 0)
                planes[course.start : course.stop] = along[object_id].pop(0)
        fused = FUSIONS[fusion](votes).clip(EDGE, 1 - EDGE)
        logits = np.log(fused / (1 - fused))
        slices[object_id] = {index: m.with_logits(logits[index]) for index, m in masks.items()}
    return replace(result, slices=slices)


def check_planes(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    """Raise InputError where planes across the other axes of a volume (z, y, x) would be too large to be looked at."""
    for axis in (1, 2):
        SquarePlane.across(axis, shape, spacing_mm)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Where an object is looked for along another axis.

    Attributes:
        axis: 1 or 2.
        start, stop: half-open range of planes.
        key: plane on which it is prompted.
        inside: (rows, columns), its mask there.
    """

    axis: int
    start: int
    stop: int
    key: int
    inside: NDArray[np.bool_]


def _axial(result: Result, object_id: int) -> Probabilities:
    """Probabilities (z, y, x) of one object along the first axis, 0 where nothing was segmented."""
    axial = np.zeros(result.shape, np.float32)
    for index, slice_mask in result.slices[object_id].items():
        axial[index] = sigmoid(slice_mask.logits())
    return axial


def _courses(axial: Probabilities, result: Result, object_id: int) -> list[Course]:
    """One for each other axis; none for an object that was not found where it was prompted."""
    prompted = [i for i, m in result.slices[object_id].items() if not m.memory_frames]
    if not (axial[prompted] > 0.5).any():
        return []
    courses = []
    for axis in (1, 2):
        inside = np.moveaxis(axial > 0.5, axis, 0)
        held = np.flatnonzero(inside.any((1, 2)))
        margin = max(2, round(MARGIN * len(held)))
        # (plane, z, other axis): the prompted slices are rows of every plane.
        key = int(inside[:, prompted].sum((1, 2)).argmax())
        start, stop = max(0, held[0] - margin), min(len(inside), held[-1] + 1 + margin)
        courses.append(Course(axis, int(start), int(stop), key, inside[key].copy()))
    return courses


@dataclass(frozen=True, slots=True)
class SquarePlane:
    """How planes across an axis are stretched to square pixels and padded to a square.

    Attributes:
        shape: (rows, columns) of a plane as stored.
        stretched: the same with square pixels.
        side: of the padded square.
    """

    shape: tuple[int, int]
    stretched: tuple[int, int]
    side: int

    @classmethod
    def of(cls, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> SquarePlane:
        """For planes of a shape (rows, columns) and pixel spacing. Raises InputError where they would be enormous."""
        finest = min(spacing_mm)
        sides = [n * mm / finest for n, mm in zip(shape, spacing_mm, strict=True)]
        if max(sides) > MAX_SIDE:
            raise InputError(
                f"planes across slices of {shape} pixels of {spacing_mm} mm would have {max(sides):.4g} square ones a "
                f"side; wanted at most {MAX_SIDE}: leave fusion out, or see to the volume's spacing"
            )
        rows, columns = (max(1, round(side)) for side in sides)
        return cls(shape, (rows, columns), max(rows, columns))

    @classmethod
    def across(
        cls, axis: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
    ) -> SquarePlane:
        """For planes across an axis of a volume (z, y, x). Raises as `of`."""
        a, b = (i for i in range(3) if i != axis)
        return cls.of((shape[a], shape[b]), (spacing_mm[a], spacing_mm[b]))

    def fill(self, planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Planes (n, rows, columns) as padded squares (n, side, side)."""
        square = np.zeros((len(planes), self.side, self.side), np.uint8)
        stretched = resize(planes, self.stretched).round().clip(0, 255)
        square[:, : self.stretched[0], : self.stretched[1]] = stretched
        return square

    def take(self, squares: NDArray[np.float32]) -> NDArray[np.float32]:
        """Padded squares (..., side, side) back to planes (..., rows, columns)."""
        inner = squares[..., : self.stretched[0], : self.stretched[1]]
        return resize(inner, self.shape, antialias=True)

    def box(self, mask: NDArray[np.bool_], index: int) -> Box:
        """The tight box of a plane's mask (rows, columns), in the square."""
        spans = []
        for axis, (before, after) in enumerate(zip(self.shape, self.stretched, strict=True)):
            held = np.flatnonzero(mask.any(1 - axis))
            scale = after / before
            spans.append((held[0] * scale, min((held[-1] + 1) * scale, after)))
        return Box(slice=index, y=spans[0], x=spans[1])


def _follow(
    predictor: VolumePredictor,
    courses: Mapping[int, Course],
    spacing_mm: tuple[float, float, float],
    axis: int,
    on_slice: Callable[[], object],
    on_encoded: Callable[[int], object],
) -> Iterator[tuple[int, Probabilities]]:
    """Object ids with probabilities (planes, rows, columns) from following each along one other axis.

    One view serves all objects one after another, so that each plane is encoded once, and those between objects never.
    """
    if not courses:
        return
    first, last = min(c.start for c in courses.values()), max(c.stop for c in courses.values())
    pixels = predictor.pixels_on_host()
    plane = SquarePlane.across(axis, pixels.shape, spacing_mm)
    planes = np.moveaxis(pixels, axis, 0)[first:last]
    # Stretched one at a time: all of them may be many times as large as the volume.
    view = predictor.another_view(
        lambda index: plane.fill(planes[index : index + 1])[0],
        (len(planes), plane.side, plane.side),
    )
    for object_id, course in courses.items():
        view.add(plane.box(course.inside, course.key - first), object_id=object_id)
        of_object = np.zeros((course.stop - course.start, *planes.shape[1:]), np.float32)
        for slice_mask in view.stream((course.start - first, course.stop - first), stop=None):
            probabilities = plane.take(sigmoid(slice_mask.logits()))
            of_object[first + slice_mask.slice - course.start] = probabilities
            on_slice()
        view.reset()
        yield object_id, of_object
    on_encoded(view.num_encodings)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities; an absent object's -1024 is 0."""
    return np.asarray(1 / (1 + np.exp(-logits.clip(-60, 60))), np.float32)
