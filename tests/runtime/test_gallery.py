"""The sheet of whole images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from runtime.predictors.result import Result, SliceMask
from runtime.preview.preview import COLOURS, COLUMNS, MARGIN, TILE, TILES, _some, draw_gallery
from runtime.prompts.prompts import Box, Point, Prompt
from runtime.track import Segmented

HEAD = 34  # the line above the images


def result_of(masks: dict[int, dict[int, np.ndarray]], shapes: list[tuple[int, int]]) -> Result:
    """Object id to image to mask (y, x)."""
    slices = {}
    for object_id, of_object in masks.items():
        slices[object_id] = {}
        for i, mask in of_object.items():
            logits = np.where(mask, 4, -4).astype(np.float32)
            segmented = Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32))
            slices[object_id][i] = SliceMask(i, object_id, segmented, mask.shape)
    return Result(tuple(shapes), slices, is_ordered=False)


def tile(picture: Image.Image, place: int) -> np.ndarray:
    row, column = divmod(place, COLUMNS)
    top, left = HEAD + row * (TILE + MARGIN), MARGIN + column * (TILE + MARGIN)
    return np.asarray(picture)[top : top + TILE, left : left + TILE].astype(int)


SHAPES = [(40, 80), (60, 30), (50, 50)]
IMAGES = [np.full((*SHAPES[0], 3), 90, np.uint8), *(np.full(s, 90, np.uint8) for s in SHAPES[1:])]
NAMES = ["a", "b", "c"]


def draw(masks: dict[int, dict[int, np.ndarray]], prompts: dict[int, list[Prompt]]) -> Image.Image:
    return draw_gallery(IMAGES, result_of(masks, SHAPES), prompts, NAMES, "title")


def test_each_image_has_its_own_shape_and_its_own_masks() -> None:
    mask = np.zeros(SHAPES[0], bool)
    mask[10:30, 20:60] = True
    nothing = {i: np.zeros(shape, bool) for i, shape in enumerate(SHAPES)}
    picture, plain = draw({1: {**nothing, 0: mask}}, {}), draw({1: nothing}, {})
    assert picture.width == len(SHAPES) * (TILE + MARGIN) + MARGIN
    scale = TILE / 80
    differs = (tile(picture, 0) != tile(plain, 0)).any(-1)
    rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
    above = (TILE - 40 * scale) / 2
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx(
        [above + 10 * scale, above + 30 * scale, 20 * scale, 60 * scale], abs=scale
    )
    assert (tile(picture, 0) == COLOURS[0]).all(-1).any()
    for place in (1, 2):
        np.testing.assert_array_equal(tile(picture, place), tile(plain, place))


def test_objects_differ_in_colour_and_an_image_without_one_is_drawn_too() -> None:
    whole = np.ones(SHAPES[1], bool)
    half = whole.copy()
    half[:, 15:] = False
    picture = draw({3: {1: half}, 8: {1: ~half}}, {})
    colours = [(tile(picture, 1) == colour).all(-1).any() for colour in COLOURS[:3]]
    assert colours == [True, True, False]
    assert not (tile(picture, 0) == COLOURS[0]).all(-1).any()


def test_prompts_are_drawn_on_their_image_only() -> None:
    nothing = {i: np.zeros(shape, bool) for i, shape in enumerate(SHAPES)}
    prompts: dict[int, list[Prompt]] = {
        1: [Box(slice=2, y=(10, 40), x=(5, 45)), Point(slice=2, y=25, x=25)]
    }
    picture, plain = draw({1: nothing}, prompts), draw({1: nothing}, {})
    scale, white = TILE / 50, (255, 255, 255)
    assert (tile(picture, 2)[round(10 * scale), round(20 * scale)] == white).all()
    assert (tile(picture, 2)[round(25.5 * scale), round(25.5 * scale)] == white).all()
    assert (tile(picture, 2)[0, 100] == white).all(), "the prompted image is framed"
    for place in (0, 1):
        np.testing.assert_array_equal(tile(picture, place), tile(plain, place))


@pytest.mark.parametrize("count", [1, 3, 8, 9, 100])
@pytest.mark.parametrize("prompted", [[], [0], [2, 7], list(range(30))])
def test_of_many_images_prompted_ones_and_an_even_choice_are_shown(
    count: int, prompted: list[int]
) -> None:
    prompted = [i for i in prompted if i < count]
    chosen = _some(count, prompted)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, TILES)
    assert set(prompted[:TILES]) <= set(chosen)
    if count == 100 and len(prompted) < 3:
        assert max(np.diff(chosen)) <= 100 // 5


@pytest.mark.parametrize("shape", [(2000, 2), (2, 2000)])
def test_a_very_narrow_image_can_be_drawn(shape: tuple[int, int]) -> None:
    result = result_of({1: {0: np.zeros(shape, bool)}}, [shape])
    assert draw_gallery([np.zeros(shape, np.uint8)], result, {}, ["a"]).height > TILE


@pytest.mark.parametrize(
    "name", ["a\nb", "tab\there", "a\udcff", "\u7814\u7a76", "\u202e", "", "x" * 900]
)
def test_any_name_of_a_file_can_be_written(name: str) -> None:
    nothing = result_of({1: {0: np.zeros((40, 40), bool)}}, [(40, 40)])
    picture = draw_gallery([np.zeros((40, 40), np.uint8)], nothing, {}, [name], name)
    assert picture.width == TILE + 2 * MARGIN
