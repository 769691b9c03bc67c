"""Crops: how they are made, what they hold, and how slices, prompts and masks go into them and come back."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf, nan

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.resize import resize
from runtime.bundle.contract import NO_OBJ_SCORE
from runtime.errors import InputError
from runtime.predictors.encoded import Numbering
from runtime.predictors.region import Region, widest
from runtime.predictors.zoom import (
    LEAST_SHARE,
    NEAR,
    ROUNDED,
    SHARED,
    WIDEN,
    Zoom,
    check_zoom,
    extent_of,
)
from runtime.prompts.prompts import Box, Mask, Point

S = 64  # of the network
LEAST = int(LEAST_SHARE * S)


@st.composite
def objects(draw: st.DrawFn) -> tuple[Zoom, Region, tuple[int, int]]:
    """A zoom, a slice's shape, and an object on it."""
    shape = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    spans = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        spans.append((start, draw(st.integers(start + 1, size))))
    spacing = draw(st.sampled_from([(1.0, 1.0), (0.7, 0.7), (2.5, 0.5), (0.3, 1.1), (1.0, 30.0)]))
    factor = draw(st.floats(1, 8))
    return Zoom(factor, S, spacing), Region(*spans), shape


def whole(crop: Region | None, shape: tuple[int, int]) -> Region:
    return crop or Region.whole(shape)


def sides(region: Region, zoom: Zoom) -> tuple[float, float]:
    """In the unit of the spacing."""
    y, x = (n * each for n, each in zip(region.shape, zoom.spacing, strict=True))
    return y, x


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1.0, 0.7, 1 / 3, 0.9765625]))
def test_the_same_scan_in_another_format_has_the_same_crops(
    height: int, width: int, spacing_mm: float
) -> None:
    """Positions and spacings are float32 in one, float64 in another, and worked out from positions in a third."""
    shape, object_ = (512, 512), Region((200, 200 + height), (250, 250 + width))
    wanted = Zoom(4.0, S, (spacing_mm, spacing_mm)).about(object_, shape)
    near = float(np.float32(spacing_mm)), spacing_mm * (1 + 1e-7), spacing_mm * (1 - 1e-7)
    for y_mm in near:
        for x_mm in (spacing_mm, *near):
            assert Zoom(4.0, S, (y_mm, x_mm)).about(object_, shape) == wanted


@given(objects())
@example((Zoom(1.0, S), Region((0, 1), (0, 1)), (1, 1)))
@example((Zoom(3.0, S), Region((299, 300), (299, 300)), (300, 300)))
@settings(max_examples=400, deadline=None)
def test_a_crop_lies_within_the_slice_and_holds_the_object(
    made: tuple[Zoom, Region, tuple[int, int]],
) -> None:
    zoom, extent, shape = made
    crop = zoom.about(extent, shape)
    assert Region.whole(shape).holds(whole(crop, shape))
    assert whole(crop, shape).holds(extent)
    assert crop is None or crop.shape != shape, "all of a slice is none"


@given(objects())
@example((Zoom(1.00001, S), Region((0, 16), (0, 1)), (17, 1)))
@settings(max_examples=400, deadline=None)
def test_a_crop_is_as_wide_as_asked_for_unless_the_slice_is_narrower(
    made: tuple[Zoom, Region, tuple[int, int]],
) -> None:
    zoom, extent, shape = made
    crop, factor = whole(zoom.about(extent, shape), shape), zoom.factor
    assert factor is not None
    wanted = max(factor * max(sides(extent, zoom)), LEAST * min(zoom.spacing))
    for length, held, each, size in zip(crop.shape, extent.shape, zoom.spacing, shape, strict=True):
        exact = min(max(wanted / each, held), size)
        assert exact - ROUNDED <= length <= ceil(exact + 1e-6)


@given(objects())
@settings(max_examples=400, deadline=None)
def test_a_crop_is_about_its_object_unless_the_slice_ends(
    made: tuple[Zoom, Region, tuple[int, int]],
) -> None:
    zoom, extent, shape = made
    crop = whole(zoom.about(extent, shape), shape)
    for span, held, size in zip((crop.y, crop.x), (extent.y, extent.x), shape, strict=True):
        before, after = held[0] - span[0], span[1] - held[1]
        if span[0] > 0 and span[1] < size:
            assert abs(before - after) <= 1
        elif span[0] > 0:
            assert before >= after - 1
        elif span[1] < size:
            assert after >= before - 1


@given(objects(), st.data())
@settings(max_examples=400, deadline=None)
def test_a_wider_crop_holds_both_and_grows_until_it_is_the_slice(
    made: tuple[Zoom, Region, tuple[int, int]], data: st.DataObject
) -> None:
    zoom, extent, shape = made
    crop = zoom.about(extent, shape)
    for _ in range(12):
        y, x = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
        there = Region((y, y + 1), (x, x + 1))
        wider = zoom.wider(crop, there, shape)
        assert whole(wider, shape).holds(there)
        assert whole(wider, shape).holds(whole(crop, shape))
        if wider is not None and crop is not None:
            grown = [b / a for a, b in zip(crop.shape, wider.shape, strict=True)]
            cut = [b == n for b, n in zip(wider.shape, shape, strict=True)]
            assert all(g >= WIDEN or c for g, c in zip(grown, cut, strict=True))
        crop = wider
    assert crop is None, "a few times are enough for any slice"


def test_anisotropic_pixels_give_crops_that_are_square_in_millimetres() -> None:
    zoom = Zoom(3.0, S, (3.0, 0.5))  # y is thick
    crop = zoom.about(Region((50, 60), (200, 230)), (120, 400))  # 30 mm x 15 mm
    assert crop is not None
    assert crop.shape == (30, 180)  # 90 mm x 90 mm
    assert crop == Region((40, 70), (125, 305))


@pytest.mark.parametrize(
    "spacing", [(1e308, 1e308), (1e-300, 1e300), (1e300, 1e-300), (5e-324, 1.0)]
)
def test_a_spacing_that_no_scanner_has_gives_crops_all_the_same(
    spacing: tuple[float, float],
) -> None:
    zoom, extent, shape = Zoom(3.0, S, spacing), Region((40, 60), (50, 58)), (200, 200)
    crop = whole(zoom.about(extent, shape), shape)
    assert crop.holds(extent) and Region.whole(shape).holds(crop)
    assert whole(zoom.wider(crop, extent, shape), shape).holds(crop)


def test_a_slice_that_is_too_narrow_is_taken_over_all_its_width() -> None:
    crop = Zoom(3.0, S).about(Region((100, 140), (10, 30)), (300, 40))
    assert crop == Region((60, 180), (0, 40))


def test_a_tiny_object_is_not_blown_up_without_end() -> None:
    crop = Zoom(2.0, S).about(Region((100, 102), (100, 101)), (300, 300))
    assert crop is not None and crop.shape == (LEAST, LEAST)


@pytest.mark.parametrize("extent", [((0, 100), (0, 100)), ((40, 60), (40, 60))])
def test_a_crop_of_the_whole_slice_is_none(extent: tuple[tuple[int, int], ...]) -> None:
    assert Zoom(8.0, S).about(Region(*extent), (100, 100)) is None
    assert Zoom(None, S).about(Region(*extent), (100, 100)) is None


@pytest.mark.parametrize("factor", [1, 3, 1.5, np.float32(2.5), np.int64(4)])
def test_factors(factor: object) -> None:
    found = check_zoom(factor)
    assert type(found) is float and found == factor
    assert check_zoom(None) is None


@pytest.mark.parametrize("factor", [nan, inf, -inf, 0, 0.99, -3, np.float64(nan)])
def test_factors_that_are_out_of_range(factor: float) -> None:
    with pytest.raises(InputError, match="is no finite number from 1"):
        check_zoom(factor)


@pytest.mark.parametrize("factor", ["3", True, np.True_, [3], 3j, object()])
def test_factors_that_are_no_numbers(factor: object) -> None:
    with pytest.raises(InputError, match="wanted a number from 1"):
        check_zoom(factor)


def test_room_is_counted_to_edges_beyond_which_there_is_something() -> None:
    zoom, shape = Zoom(2.0, S), (100, 100)
    crop = Region((0, 40), (60, 100))  # at the slice's upper and right edges
    assert zoom.room(crop, Region((0, 10), (90, 100)), shape) == min(30 / 40, 30 / 40)
    assert zoom.room(crop, Region((0, 38), (90, 100)), shape) == 2 / 40
    assert zoom.room(crop, Region((0, 10), (59, 70)), shape) == -1 / 40
    assert zoom.room(Region((0, 40), (0, 100)), Region((5, 9), (0, 100)), shape) == 31 / 40
    assert zoom.room(Region.whole(shape), Region((5, 9), (0, 100)), shape) == inf


def test_a_fresh_crop_leaves_room_for_an_object_to_move() -> None:
    for factor in (1.5, 2.0, 3.0):
        zoom, extent = Zoom(factor, S), Region((140, 180), (120, 170))
        crop = zoom.about(extent, (400, 400))
        assert crop is not None and zoom.room(crop, extent, (400, 400)) > NEAR


def test_objects_that_are_near_and_alike_in_size_may_share_a_crop() -> None:
    zoom, shape = Zoom(3.0, S), (400, 400)
    crop = zoom.about(Region((100, 150), (100, 150)), shape)
    assert zoom.fits(crop, Region((110, 160), (95, 140)), shape)
    assert not zoom.fits(crop, Region((110, 160), (200, 240)), shape), "far"
    assert not zoom.fits(crop, Region((130, 170), (60, 100)), shape), "at its edge"
    small = Region((120, 132), (120, 132))
    assert SHARED * 3 * 12 < 150 and not zoom.fits(crop, small, shape), "small"
    assert not zoom.fits(None, small, shape)
    assert zoom.fits(None, Region((0, 300), (0, 300)), shape)


def test_tight_regions() -> None:
    mask = np.zeros((20, 30), np.uint8)
    assert Region.of_mask(mask) is None
    mask[3, 7] = mask[11, 5] = 4
    assert Region.of_mask(mask) == Region((3, 12), (5, 8))
    assert Region.of_prompts([Mask(mask=mask)]) == Region((3, 12), (5, 8))
    assert Region.of_prompts([Mask(mask=mask * 0)]) is None
    points = [Point(y=2.7, x=4), Point(y=9, x=1, positive=False)]
    assert Region.of_prompts(points) == Region((2, 10), (1, 5))
    assert Region.of_prompts([Box(y=(1.5, 3.2), x=(4, 6)), points[0]]) == Region((1, 4), (4, 6))
    assert Region.of_prompts([Box(y=(1.2, 1.4), x=(4, 4.1))]) == Region((1, 2), (4, 5))


def test_the_widest_of_crops() -> None:
    small, large = Region((2, 4), (2, 4)), Region((0, 9), (1, 5))
    assert widest([small, large]) == large
    assert widest([small, None]) is None
    assert widest([]) is None


def test_prompts_and_pixels_are_seen_from_the_crop() -> None:
    crop = Region((10, 30), (5, 45))
    pixels = np.arange(50 * 60, dtype=np.uint8).reshape(50, 60)
    assert crop.of(pixels).shape == crop.shape == (20, 40)
    point, box = crop.moved([Point(slice=3, y=12.5, x=6), Box(slice=3, y=(10, 30), x=(7.5, 9))])
    assert point == Point(slice=3, y=2.5, x=1)
    assert box == Box(slice=3, y=(0, 20), x=(2.5, 4))
    assert crop.of(pixels)[2, 1] == pixels[12, 6]


def test_logits_are_put_back_as_a_whole_slices_are_and_nothing_is_outside() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 16)).astype(np.float32)
    crop = Region((10, 30), (5, 45))
    back = crop.put_back(logits, (50, 60))
    np.testing.assert_array_equal(crop.of(back), resize(logits, crop.shape))
    outside = np.ones((50, 60), bool)
    outside[10:30, 5:45] = False
    assert (back[outside] == NO_OBJ_SCORE).all()
    every = Region.whole((50, 60))
    np.testing.assert_array_equal(every.put_back(logits, (50, 60)), resize(logits, (50, 60)))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_the_extent_of_a_mask_holds_it(height: int, width: int, top: int, left: int) -> None:
    shape, crop = (100, 100), Region((top, top + height), (left, left + width))
    logits = np.full((16, 16), -1.0, np.float32)
    logits[3:9, 10:16] = 1.0
    found = extent_of(logits, crop, shape)
    assert found is not None and crop.holds(found)
    drawn = Region.of_mask(crop.put_back(logits, shape) > 0)
    if drawn is not None:
        reach = [max(1, ceil(n / 16)) for n in crop.shape]
        near = Region(
            (found.y[0] - reach[0], found.y[1] + reach[0]),
            (found.x[0] - reach[1], found.x[1] + reach[1]),
        )
        assert near.holds(drawn)
    assert extent_of(-np.abs(logits), crop, shape) is None


def test_a_cache_knows_slices_by_their_own_numbers_and_crops_by_others() -> None:
    slices = np.random.default_rng(0).integers(0, 255, (4, 20, 30)).astype(np.uint8)
    numbering, crop = Numbering(lambda index: slices[index]), Region((2, 9), (3, 30))
    numbers = {(i, c): numbering.of(i, c) for i in range(4) for c in (None, crop)}
    assert [numbers[i, None] for i in range(4)] == [0, 1, 2, 3]
    assert len(set(numbers.values())) == len(numbers)
    assert numbers == {(i, c): numbering.of(i, c) for i, c in numbers}
    for (i, c), number in numbers.items():
        wanted = slices[i] if c is None else slices[i, 2:9, 3:30]
        np.testing.assert_array_equal(numbering.read(number), wanted)
    assert numbering.num_read == len(numbers)
    numbering.clear()
    other = replace(crop, y=(0, 3))
    np.testing.assert_array_equal(numbering.read(numbering.of(1, other)), slices[1, :3, 3:])
