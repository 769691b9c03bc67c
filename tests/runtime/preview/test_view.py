"""The same anatomy is shown the same way, however its voxels are stored."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from runtime.io import Volume, read_volume
from runtime.predictors.result import Result, SliceMask
from runtime.preview.preview import draw_preview
from runtime.preview.view import AS_STORED, Edges, view_along, view_of
from runtime.prompts.prompts import Box, Point, Prompt
from runtime.track import Segmented

SIGNS = list(product((1, -1), repeat=3))
# Each is (which world axis (x, y, z) array axes (x, y, z) run along, in which sense).
ORIENTATIONS = [(axes, signs) for axes in permutations(range(3)) for signs in SIGNS]
SHAPE = (3, 5, 4)  # of the world, (z, y, x): towards the head, the back, the left
WORLD = np.arange(60, dtype=np.uint8).reshape(SHAPE)
EDGES = {
    "axial": Edges(left="R", right="L", top="A", bottom="P"),
    "coronal": Edges(left="R", right="L", top="S", bottom="I"),
    "sagittal": Edges(left="A", right="P", top="S", bottom="I"),
}
PLANE_OF = ("sagittal", "coronal", "axial")  # by the world axis across it


def direction_of(axes: tuple[int, ...], signs: tuple[int, ...]) -> tuple[float, ...]:
    columns = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        columns[axis, column] = sign
    return tuple(columns.ravel())


def stored(world: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """The world (z, y, x) as an array (z, y, x) whose axes run so."""
    order = [2 - axes[2 - i] for i in range(3)]  # array axis i is numpy's; its world axis likewise
    array = world.transpose(order)
    return array[tuple(slice(None, None, signs[2 - i]) for i in range(3))]


def seen(plane: str, index: int) -> np.ndarray:
    """What a radiologist would see of the world."""
    if plane == "axial":  # rows to the back, columns to the left
        return WORLD[index]
    if plane == "coronal":  # rows to the feet, columns to the left
        return WORLD[::-1, index]
    return WORLD[::-1, :, index]  # rows to the feet, columns to the back


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_every_orientation_shows_the_same_anatomy(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    view, array = view_along(direction_of(axes, signs)), stored(WORLD, axes, signs)
    across = axes[2]
    assert view.plane == PLANE_OF[across]
    assert view.edges == EDGES[view.plane]
    for index, plane in enumerate(array):
        at = index if signs[2] > 0 else len(array) - 1 - index
        np.testing.assert_array_equal(view.show(plane), seen(view.plane, at))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_place_goes_where_its_voxel_goes(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    view = view_along(direction_of(axes, signs))
    plane = np.zeros((4, 7), np.uint8)
    plane[1, 5] = 1
    (row,), (column,) = np.nonzero(view.show(plane))
    assert view.place(1.5, 5.5, (4, 7)) == (row + 0.5, column + 0.5)


def drawn(axes: tuple[int, ...], signs: tuple[int, ...]) -> Image.Image:
    """The preview of one slice of an orientation, with a mask, a box and a point."""
    rng = np.random.default_rng(5)
    shape = [90, 80, 70]
    shape[2 - axes[2]] = 1
    world = rng.integers(0, 255, shape, np.uint8)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(0, 1) if n == 1 else slice(20, 50) for n in shape)] = True
    spot = np.zeros(shape, bool)
    spot[tuple(0 if n == 1 else 40 + i for i, n in enumerate(shape))] = True
    array, inside, point = (stored(part, axes, signs) for part in (world, mask, spot))
    spacing = [2.5, 1.0, 1.5]  # of the world (z, y, x)
    spacing_yx = tuple(spacing[2 - axes[2 - i]] for i in (1, 2))
    rows, columns = (np.flatnonzero(inside[0].any(axis)) for axis in (1, 0))
    y, x = (int(found[0]) for found in np.nonzero(point[0]))
    prompts: list[Prompt] = [
        Box(y=(int(rows[0]), int(rows[-1]) + 1), x=(int(columns[0]), int(columns[-1]) + 1)),
        Point(y=y, x=x),
    ]
    logits = np.where(inside[0], 4, -4).astype(np.float32)
    segmented = Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32))
    result = Result((logits.shape,), {1: {0: SliceMask(0, 1, segmented, logits.shape)}})
    view = view_along(direction_of(axes, signs))
    return draw_preview(array, result, {1: prompts}, spacing_yx, view=view)


@pytest.mark.parametrize("across", range(3))
def test_pictures_with_contours_and_prompts_are_the_same_for_a_plane(across: int) -> None:
    pictures = [drawn(axes, signs) for axes, signs in ORIENTATIONS if axes[2] == across]
    assert len(pictures) == 16
    first = np.asarray(pictures[0]).astype(int)
    for picture in pictures[1:]:
        assert np.abs(np.asarray(picture).astype(int) - first).max() == 0


def turned(degrees: float, about: int) -> tuple[float, ...]:
    """Directions of an axial volume that was turned about a world axis."""
    angle = np.radians(degrees)
    first, second = (axis for axis in range(3) if axis != about)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return tuple(matrix.ravel())


@pytest.mark.parametrize(
    ("degrees", "about", "plane", "edges"),
    [
        (10, 0, "axial", Edges("R", "L", "A", "P")),
        (-20, 0, "oblique axial", Edges("R", "L", "AS", "PI")),
        (20, 0, "oblique axial", Edges("R", "L", "AI", "PS")),
        (60, 0, "oblique coronal", Edges("R", "L", "SP", "IA")),
        (30, 2, "axial", Edges("RA", "LP", "AL", "PR")),
    ],
)
def test_an_oblique_plane_is_called_so_and_has_two_letters(
    degrees: float, about: int, plane: str, edges: Edges
) -> None:
    view = view_along(turned(degrees, about))
    assert view.plane == plane
    assert view.edges == edges


def test_a_volume_of_which_nobody_says_how_it_lies_is_shown_as_it_is_stored() -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    assert view_of(Volume.from_array(array)) is AS_STORED
    lying = Volume(array, (1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 5.0))
    assert view_of(lying).edges == EDGES["axial"]
    assert view_of(Volume(array, (1.0,) * 3, direction=turned(180, 2))).edges == EDGES["axial"]


CODES = [
    tuple(["RL", "AP", "SI"][axis][side] for axis, side in zip(axes, sides, strict=True))
    for axes in permutations(range(3))
    for sides in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("codes", CODES, ids="".join)
def test_letters_of_a_nifti_file_are_those_that_nibabel_knows(
    codes: tuple[str, ...], tmp_path: Path
) -> None:
    start = nibabel.orientations.axcodes2ornt("RAS")
    turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes))
    shape = (4, 5, 6)
    affine = np.eye(4) @ nibabel.orientations.inv_ornt_aff(turn, shape)
    affine[:3, 3] += (10, -20, 30)
    assert nibabel.aff2axcodes(affine) == codes
    i, j, _ = np.indices(shape)
    edges = {}
    for letter, ramp in zip(codes[:2], (i, j), strict=True):
        path = tmp_path / f"{letter}.nii"
        nibabel.save(nibabel.Nifti1Image(ramp.astype(np.int16), affine), path)
        volume = read_volume(path)
        view = view_of(volume)
        shown = view.show(volume.array[0])
        names = {
            "right": shown[0, -1] - shown[0, 0],
            "left": shown[0, 0] - shown[0, -1],
            "bottom": shown[-1, 0] - shown[0, 0],
            "top": shown[0, 0] - shown[-1, 0],
        }
        towards = max(names, key=lambda name: names[name])
        assert getattr(view.edges, towards) == letter
        edges[towards] = letter
    assert edges.keys() & {"right", "left"} and edges.keys() & {"top", "bottom"}
