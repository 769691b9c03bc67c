from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import Sam2Error
from runtime.predictors.result import Result, SliceMask
from runtime.preview.preview import (
    COLOURS,
    COLUMNS,
    MARGIN,
    TILE,
    TILES,
    choose_slices,
    draw_preview,
    write_preview,
)
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from runtime.track import Segmented

HEAD = 34  # the line above the slices
POINTER = np.zeros(1, np.float32)


def result_of(masks: dict[int, np.ndarray]) -> Result:
    """What a run would hand out for these masks (z, y, x)."""
    slices = {}
    for object_id, volume in masks.items():
        logits = np.where(volume, 4, -4).astype(np.float32)
        slices[object_id] = {
            index: SliceMask(index, object_id, Segmented(plane, 0.5, 5.0, POINTER), plane.shape)
            for index, plane in enumerate(logits)
        }
    shape = next(iter(masks.values())).shape
    return Result((shape[1:],) * shape[0], slices)


def grey(shape: tuple[int, int, int]) -> np.ndarray:
    return np.full(shape, 90, np.uint8)


def tile(picture: Image.Image, place: int, size: tuple[int, int]) -> np.ndarray:
    """One slice's picture, cut from the sheet; size is (y, x)."""
    row, column = divmod(place, COLUMNS)
    top, left = HEAD + row * (size[0] + MARGIN), MARGIN + column * (size[1] + MARGIN)
    return np.asarray(picture)[top : top + size[0], left : left + size[1]].astype(int)


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[int, np.ndarray], list[int], range]:
    """Masks, prompted slices, and the slices that were segmented."""
    depth = draw(st.integers(1, 40))
    start = draw(st.integers(0, depth - 1))
    stop = draw(st.integers(start + 1, depth))
    within = st.integers(start, stop - 1)
    prompted = draw(st.lists(within, min_size=1, max_size=12))
    masks = {}
    for object_id in range(1, draw(st.integers(1, 3)) + 1):
        masks[object_id] = np.zeros((depth, 1, 1), bool)
        for index in draw(st.lists(within, max_size=10)):
            masks[object_id][index] = True
    return masks, prompted, range(start, stop)


@given(runs())
def test_prompted_slices_are_always_among_those_shown(
    run: tuple[dict[int, np.ndarray], list[int], range],
) -> None:
    masks, prompted, segmented = run
    chosen = choose_slices(masks, prompted, segmented)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(segmented)
    assert {*list(dict.fromkeys(prompted))[:TILES]} <= set(chosen)
    interesting = {*prompted, *np.flatnonzero(sum(mask.any((1, 2)) for mask in masks.values()))}
    low, high = min(interesting) - 1, max(interesting) + 1  # one beyond the object on either side
    near = [index for index in segmented if low <= index <= high]
    assert set(chosen) <= set(near)
    assert len(chosen) == min(TILES, len(near))


def test_the_slices_shown_are_spread_over_the_object() -> None:
    mask = np.zeros((100, 1, 1), bool)
    mask[10:80] = True
    chosen = choose_slices({1: mask}, [40], range(100))
    assert len(chosen) == TILES
    assert 40 in chosen
    assert max(np.diff(chosen)) <= 20
    assert chosen[0] < 25
    assert chosen[-1] > 65


SHAPE = (5, 64, 64)
FULL = (TILE, TILE)


def test_the_picture_differs_where_the_mask_is_and_nowhere_else() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[1:4, 20:40, 10:30] = True
    prompts: dict[int, list[Prompt]] = {1: [Point(slice=2, y=30, x=20)]}
    with_mask = draw_preview(grey(SHAPE), result_of({1: mask}), prompts)
    without = draw_preview(grey(SHAPE), result_of({1: np.zeros(SHAPE, bool)}), prompts)
    scale = TILE / 64
    drawn, plain = tile(with_mask, 2, FULL), tile(without, 1, FULL)  # slice 2 in either sheet
    differs = (drawn != plain).any(-1)
    rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx(
        [20 * scale, 40 * scale, 10 * scale, 30 * scale], abs=scale
    )
    inner = differs[round(22 * scale) : round(27 * scale), round(12 * scale) : round(28 * scale)]
    assert inner.all(), "the inside is tinted"
    assert (drawn == COLOURS[0]).all(-1).any(), "and the border drawn"
    border = tile(with_mask, 0, FULL)
    assert not (border == COLOURS[0]).all(-1).any(), "slice 0 does not hold the object"


def test_the_prompted_slice_is_framed_and_its_prompts_drawn() -> None:
    nothing = result_of({1: np.zeros(SHAPE, bool)})
    box = Box(slice=2, y=(10, 50), x=(20, 40))
    drawn = draw_preview(grey(SHAPE), nothing, {1: [box]})
    scale = TILE / 64
    prompted, neighbour = tile(drawn, 1, FULL), tile(drawn, 2, FULL)
    white = (255, 255, 255)
    assert (prompted[0] == white).all()
    assert (prompted[round(30 * scale), round(20 * scale)] == white).all()
    assert not (neighbour[0] == white).all()
    assert (neighbour[round(30 * scale), round(20 * scale)] == 90).all()


def test_a_negative_point_is_drawn_as_a_minus() -> None:
    nothing = result_of({1: np.zeros(SHAPE, bool)})
    middle = round(32.5 * TILE / 64)
    for positive in (True, False):
        point = Point(slice=2, y=32, x=32, positive=positive)
        drawn = tile(draw_preview(grey(SHAPE), nothing, {1: [point]}), 1, FULL)
        assert (drawn[middle, middle - 4] == 255).all()
        assert (drawn[middle - 4, middle] == 255).all() == positive


@pytest.mark.parametrize(
    ("spacing", "size"),
    [((1.0, 1.0), (360, 360)), ((2.0, 1.0), (360, 180)), ((0.5, 1.5), (120, 360))],
)
def test_anisotropic_voxels_are_shown_in_their_true_proportions(
    spacing: tuple[float, float], size: tuple[int, int]
) -> None:
    mask = np.zeros(SHAPE, bool)
    lengths = [round(12 / step) for step in spacing]  # a square of 12 mm
    mask[2, 20 : 20 + lengths[0], 20 : 20 + lengths[1]] = True
    picture = draw_preview(
        grey(SHAPE), result_of({1: mask}), {1: [Mask(slice=2, mask=mask[2])]}, spacing
    )
    assert picture.height == HEAD + size[0] + MARGIN
    assert picture.width == 3 * (size[1] + MARGIN) + MARGIN
    coloured = (tile(picture, 1, size) == COLOURS[0]).all(-1)
    height, width = (np.ptp(np.flatnonzero(coloured.any(axis))) + 1 for axis in (1, 0))
    assert height == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "prompt"),
    [
        ((1, 1, 1), Point(y=0, x=0)),
        ((3, 800, 1), Point(slice=1, y=700, x=0)),
        ((3, 1, 800), Box(slice=1, y=(0, 1), x=(0, 800))),
        ((12, 2000, 10), Box(slice=6, y=(1990, 2000), x=(9, 10))),
        ((2, 10, 2000), Point(slice=1, y=9, x=1999)),
        ((2, 900, 900), Box(slice=1, y=(899, 900), x=(0, 1))),
        ((2, 900, 900), Box(slice=1, y=(10.2, 10.3), x=(899.5, 900))),
    ],
)
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.1, 20.0)])
def test_slices_of_any_size_make_a_picture_of_bounded_size(
    spacing: tuple[float, float], fill: bool, prompt: Prompt, shape: tuple[int, int, int]
) -> None:
    result = result_of({1: np.full(shape, fill)})
    picture = draw_preview(grey(shape), result, {1: [prompt]}, spacing, "a title " * 20)
    assert 0 < picture.width <= COLUMNS * (TILE + MARGIN) + MARGIN
    assert HEAD < picture.height <= HEAD + TILES // COLUMNS * (TILE + MARGIN)


def test_a_small_object_is_cut_out_of_a_large_slice() -> None:
    shape = (3, 900, 900)
    mask = np.zeros(shape, bool)
    mask[1, 700:720, 100:130] = True
    picture = draw_preview(grey(shape), result_of({1: mask}), {1: [Point(slice=1, y=710, x=110)]})
    coloured = (tile(picture, 1, FULL) == COLOURS[0]).all(-1)
    width = np.ptp(np.flatnonzero(coloured.any(0))) + 1
    assert width > TILE / 4, "it can be seen"


def test_more_objects_than_colours_share_them() -> None:
    count = 3 * len(COLOURS) + 1
    masks = {}
    for i in range(count):
        masks[i + 1] = np.zeros(SHAPE, bool)
        masks[i + 1][2, 2:60, 3 * i : 3 * i + 2] = True
    picture = draw_preview(grey(SHAPE), result_of(masks), {7: [Point(slice=2, y=5, x=5)]})
    shown = {tuple(pixel) for pixel in tile(picture, 1, FULL).reshape(-1, 3)}
    assert set(COLOURS) <= shown


def test_without_prompts_and_without_any_object_the_middle_is_shown() -> None:
    picture = draw_preview(grey(SHAPE), result_of({1: np.zeros(SHAPE, bool)}), {})
    assert picture.width == 3 * (TILE + MARGIN) + MARGIN


@pytest.mark.parametrize("name", ["p.png", "p.PNG", "p.jpg", "p.jpeg"])
def test_the_suffix_chooses_the_format(name: str, tmp_path: Path) -> None:
    write_preview(tmp_path / name, Image.new("RGB", (9, 7)))
    with Image.open(tmp_path / name) as image:
        assert image.format == ("PNG" if name.lower().endswith("png") else "JPEG")
        assert image.size == (9, 7)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, format: str) -> None:
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    (tmp_path / "p.png").write_bytes(b"older")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Sam2Error, match=r"p\.png could not be written"):
        write_preview(tmp_path / "p.png", Image.new("RGB", (9, 7)))
    assert (tmp_path / "p.png").read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
