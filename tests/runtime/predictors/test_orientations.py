"""A volume along all three axes: planes and their stretching, votes, and what becomes of a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import runtime.predictors.volume
from runtime.errors import InputError
from runtime.io import Volume
from runtime.measure.phantom import make_phantom
from runtime.memory import MemoryRules
from runtime.model import Model, load
from runtime.predictors import VolumePredictor
from runtime.predictors.orientations import FUSIONS, SquarePlane, fuse_orientations, sigmoid
from runtime.predictors.result import Result, SliceMask
from runtime.prompts.prompts import Box, Mask, check_prompt
from runtime.steps.features import ReadSlice
from runtime.track import Segmented
from tests.fakes import TELLING, fake_model

SPACINGS = [(5.0, 0.7), (0.7, 5.0), (1.0, 1.0), (2.5, 2.0)]


def smooth(count: int, rows: int, columns: int) -> np.ndarray:
    n, y, x = np.ogrid[:count, :rows, :columns]
    return 127 + 100 * np.sin(n + 3 * y / rows) * np.cos(4 * x / columns)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_a_smooth_plane_comes_back_nearly_unchanged(spacing_mm: tuple[float, float]) -> None:
    plane = SquarePlane.of((24, 40), spacing_mm)
    pixels = smooth(3, 24, 40).astype(np.uint8)
    squares = plane.fill(pixels)
    assert squares.dtype == np.uint8
    assert squares.shape == (3, plane.side, plane.side)
    back = plane.take(squares.astype(np.float32))
    assert back.shape == pixels.shape
    assert np.abs(back - pixels).max() < 6
    assert np.abs(back - pixels).mean() < 1


def test_fine_detail_is_averaged_where_planes_shrink() -> None:
    plane = SquarePlane.of((4, 40), (5.0, 1.0))
    stripes = np.zeros((1, plane.side, plane.side), np.float32)
    stripes[:, ::2] = 1
    np.testing.assert_allclose(plane.take(stripes), 0.5, atol=0.06)


def test_pixels_become_square_by_the_finer_spacing() -> None:
    assert SquarePlane.of((24, 40), (5.0, 1.0)) == SquarePlane((24, 40), (120, 40), 120)
    assert SquarePlane.of((24, 40), (1.0, 2.0)) == SquarePlane((24, 40), (24, 80), 80)
    assert SquarePlane.of((24, 40), (0.8, 0.8)) == SquarePlane((24, 40), (24, 40), 40)
    assert SquarePlane.of((3, 5), (2.5, 1.0)).stretched == (round(7.5), 5)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_what_is_padded_is_black_and_never_comes_back(spacing_mm: tuple[float, float]) -> None:
    plane = SquarePlane.of((24, 40), spacing_mm)
    squares = plane.fill(np.full((2, 24, 40), 200, np.uint8))
    rows, columns = plane.stretched
    assert (squares[:, :rows, :columns] == 200).all()
    assert not squares[:, rows:].any()
    assert not squares[:, :, columns:].any()
    outside = np.ones((2, plane.side, plane.side), np.float32)
    outside[:, :rows, :columns] = 0.25
    np.testing.assert_allclose(plane.take(outside), 0.25, rtol=1e-6)


@pytest.mark.parametrize("spacing_mm", [(1e300, 1.0), (1e308, 1e308), (1e-9, 1.0), (1.0, 300.0)])
def test_planes_that_nobody_could_hold_are_refused(spacing_mm: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"a side; wanted at most 8192: leave fusion out"):
        SquarePlane.of((24, 40), spacing_mm)


def test_planes_of_square_pixels_stay_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 14), dtype=np.uint8)
    plane = SquarePlane.of((9, 14), (0.7, 0.7))
    np.testing.assert_array_equal(plane.fill(pixels)[:, :9], pixels)
    np.testing.assert_array_equal(plane.take(plane.fill(pixels).astype(np.float32)), pixels)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_a_box_covers_the_mask_in_the_square_and_no_more(
    spacing_mm: tuple[float, float],
) -> None:
    plane = SquarePlane.of((24, 40), spacing_mm)
    mask = np.zeros((24, 40), bool)
    mask[5:12, 30] = mask[9, 22:31] = True
    box = plane.box(mask, 6)
    assert box.slice == 6
    square = plane.fill(mask[None].astype(np.uint8) * 255)[0] >= 128
    rows, columns = (np.flatnonzero(square.any(axis)) for axis in (1, 0))
    assert box.y == pytest.approx((rows[0], rows[-1] + 1), abs=1)
    assert box.x == pytest.approx((columns[0], columns[-1] + 1), abs=1)
    scale = plane.stretched[0] / 24, plane.stretched[1] / 40
    assert box.y == pytest.approx((5 * scale[0], 12 * scale[0]))
    assert box.x == pytest.approx((22 * scale[1], 31 * scale[1]))


@pytest.mark.parametrize("ratio", [1.3, 2.5, 29 / 7, 5.2])
def test_a_box_up_to_the_border_fits(ratio: float) -> None:
    for side in range(1, 200):
        for shape, spacing_mm in (((side, 1), (ratio, 1.0)), ((1, side), (1.0, ratio))):
            plane = SquarePlane.of(shape, spacing_mm)
            box = plane.box(np.ones(shape, bool), 0)
            check_prompt(box, (1, plane.side, plane.side))


def probabilities(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_three_times_the_same_fuses_to_the_same(fusion: str) -> None:
    one = probabilities(1)
    fused = FUSIONS[fusion]([one, one, one])
    assert fused.dtype == np.float32
    np.testing.assert_array_equal(fused > 0.5, one > 0.5)
    if fusion == "mean":
        np.testing.assert_allclose(fused, one, rtol=1e-6)


def test_a_vote_goes_by_the_majority() -> None:
    votes = [probabilities(seed) for seed in (1, 2, 3)]
    inside = np.sum([each > 0.5 for each in votes], 0)
    fused = FUSIONS["vote"](votes)
    np.testing.assert_array_equal(fused > 0.5, inside >= 2)
    np.testing.assert_allclose(fused, inside / 3, rtol=1e-6)


def test_a_mean_weighs_how_sure_each_is() -> None:
    votes = [np.full((1, 1, 1), p, np.float32) for p in (0.95, 0.4, 0.4)]
    assert FUSIONS["mean"](votes).item() == pytest.approx(1.75 / 3)
    assert FUSIONS["vote"](votes).item() == pytest.approx(1 / 3)


def test_of_an_absent_object_the_probability_is_zero_without_overflow() -> None:
    with np.errstate(over="raise"):
        found = sigmoid(np.array([-1024, 0, 1024], np.float32))
    np.testing.assert_allclose(found, [0, 0.5, 1], atol=1e-20)


SHAPE = (7, 48, 56)
SPACING_MM = (3.0, 1.0, 1.2)
PHANTOM = make_phantom(SHAPE, seed=3)
TRUTH = PHANTOM.labels == 1
KEY = 3


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


@pytest.fixture(scope="module")
def ran() -> tuple[VolumePredictor, Result]:
    """The embedded model's run along the first axis."""
    predictor = VolumePredictor(load(threads=1).plain())
    predictor.set_volume(Volume.from_array(PHANTOM.pixels, SPACING_MM))
    predictor.add(PHANTOM.box(KEY, 1))
    return predictor, predictor.propagate()


def test_an_unknown_fusion_is_refused_before_anything_is_computed(
    ran: tuple[VolumePredictor, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VolumePredictor, "another_view", None)
    with pytest.raises(InputError, match="no fusion 'median'; there are: mean, vote"):
        fuse_orientations(*ran, SPACING_MM, "median")
    with pytest.raises(InputError, match="leave fusion out"):
        fuse_orientations(*ran, (1.0, 1000.0, 1.0), "mean")


def test_fusion_keeps_the_shape_and_the_object(ran: tuple[VolumePredictor, Result]) -> None:
    predictor, result = ran
    planes: list[int] = []
    fused = fuse_orientations(predictor, result, SPACING_MM, "mean", on_slice=planes.append)
    assert fused.shape == result.shape == SHAPE
    assert fused.shapes == result.shapes
    assert list(fused.slices[1]) == list(result.slices[1])
    found = fused.mask(1)
    assert dice(found[KEY], TRUTH[KEY]) > 0.85
    assert dice(found, TRUTH) > 0.6
    assert (found != result.mask(1)).any()
    extents = [len(np.flatnonzero(result.mask(1).any(axes))) for axes in ((0, 2), (0, 1))]
    # Two axes' planes, with a margin of at least two on either side of the object.
    assert len(planes) >= sum(extents) + 8
    for index, before in result.slices[1].items():
        after = fused.slices[1][index]
        assert after.segmented.logits.shape == SHAPE[1:]
        assert after.segmented.logits.dtype == np.float32
        assert np.isfinite(after.segmented.logits).all()
        assert after.confidence == before.confidence
        assert after.memory_frames == before.memory_frames


def test_the_volume_and_the_run_stay_as_they_were(ran: tuple[VolumePredictor, Result]) -> None:
    predictor, result = ran
    before = result.mask(1)
    fuse_orientations(predictor, result, SPACING_MM, "vote")
    np.testing.assert_array_equal(predictor.pixels, PHANTOM.pixels)
    np.testing.assert_array_equal(result.mask(1), before)
    np.testing.assert_array_equal(predictor.propagate().mask(1), before)


class Oracle:
    """Stands for a predictor that finds whatever is bright; it remembers what it was shown and asked."""

    num_encodings = 0

    def __init__(self, pixels: np.ndarray, views: list[Oracle] | None = None) -> None:
        self.pixels, self.boxes = pixels, []
        self.ranges: list[tuple[int, int]] = []
        self.views: list[Oracle] = [] if views is None else views

    def pixels_on_host(self) -> np.ndarray:
        return self.pixels

    def another_view(self, read_slice: ReadSlice, shape: tuple[int, int, int]) -> Oracle:
        pixels = np.stack([read_slice(index) for index in range(shape[0])])
        assert pixels.shape == shape
        self.views.append(Oracle(pixels, self.views))
        return self.views[-1]

    def add(self, box: Box, object_id: int) -> None:
        self.boxes.append(box)

    def reset(self) -> None:
        """Every object is asked for by itself."""

    def stream(self, z_range: tuple[int, int], stop: object) -> Iterator[SliceMask]:
        assert stop is None, "the first run has said how far the object goes"
        self.ranges.append(z_range)
        for index in range(*z_range):
            is_prompted = index == self.boxes[-1].slice
            yield slice_mask(index, self.pixels[index] >= 128, is_prompted)


def slice_mask(index: int, inside: np.ndarray, is_prompted: bool, object_id: int = 1) -> SliceMask:
    logits = np.where(inside, 9, -9).astype(np.float32)
    memory = () if is_prompted else (KEY,)
    segmented = Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32), memory)
    return SliceMask(index, object_id, segmented, inside.shape)


def axial_run(masks: dict[int, np.ndarray]) -> Result:
    slices = {
        object_id: {i: slice_mask(i, plane, i == KEY, object_id) for i, plane in enumerate(mask)}
        for object_id, mask in masks.items()
    }
    depth, *shape = next(iter(masks.values())).shape
    return Result((tuple(shape),) * depth, slices)


def wedge() -> np.ndarray:
    """An object whose slices along every axis all differ."""
    z, y, x = np.indices((9, 21, 17))
    return (z >= 1) & (z <= 7) & (y >= 4 + z // 2) & (y + x < 24) & (x >= 2) & (x < 13 - z)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_where_all_axes_agree_nothing_changes(fusion: str) -> None:
    truth = wedge()
    oracle = Oracle(truth * np.uint8(255))
    fused = fuse_orientations(oracle, axial_run({1: truth}), (1.0, 1.0, 1.0), fusion)
    np.testing.assert_array_equal(fused.mask(1), truth)


@pytest.mark.parametrize("spacing_mm", [(3.0, 1.0, 1.0), (1.0, 2.0, 1.5), (2.0, 0.5, 1.0)])
def test_across_thick_slices_nearly_nothing_changes(
    spacing_mm: tuple[float, float, float],
) -> None:
    truth = wedge()
    oracle = Oracle(truth * np.uint8(255))
    fused = fuse_orientations(oracle, axial_run({1: truth}), spacing_mm)
    assert dice(fused.mask(1), truth) > 0.9
    for view, axes in zip(oracle.views, ((0, 2), (0, 1)), strict=True):
        finest = min(spacing_mm[axis] for axis in axes)
        rows, columns = (round(truth.shape[axis] * spacing_mm[axis] / finest) for axis in axes)
        assert view.pixels.shape[1:] == (max(rows, columns),) * 2
        held = view.pixels.any(0)
        assert not held[rows:].any() and not held[:, columns:].any()


def test_each_other_axis_is_prompted_where_the_object_is_widest() -> None:
    truth = wedge()
    oracle = Oracle(truth * np.uint8(255))
    fuse_orientations(oracle, axial_run({1: truth}), (1.0, 1.0, 1.0))
    along_y, along_x = oracle.views
    for view, axis in ((along_y, 1), (along_x, 2)):
        planes = np.moveaxis(truth, axis, 0)
        (box,) = view.boxes
        key = int(planes[:, KEY].sum(1).argmax())
        shown = view.pixels[box.slice][: planes.shape[1], : planes.shape[2]]
        np.testing.assert_array_equal(shown > 0, planes[key])
        rows, columns = np.nonzero(planes[key])
        assert box.y == (rows.min(), rows.max() + 1)
        assert box.x == (columns.min(), columns.max() + 1)
        held = np.flatnonzero(planes.any((1, 2)))
        first = max(0, held[0] - 2)
        assert len(view.pixels) == min(len(planes), held[-1] + 3) - first
        assert box.slice == key - first


def test_what_the_first_run_has_lost_the_two_others_bring_back() -> None:
    truth = wedge()
    lost = truth.copy()
    lost[5] = False
    lost[KEY, :, 3] = False
    oracle = Oracle(truth * np.uint8(255))
    fused = fuse_orientations(oracle, axial_run({1: lost}), (1.0, 1.0, 1.0), "vote")
    np.testing.assert_array_equal(fused.mask(1), truth)
    too_much = truth.copy()
    too_much[5, 15:20, 1] = True
    fused = fuse_orientations(oracle, axial_run({1: too_much}), (1.0, 1.0, 1.0), "vote")
    np.testing.assert_array_equal(fused.mask(1), truth)


def test_an_object_that_the_first_run_did_not_find_stays_away() -> None:
    truth = wedge()
    oracle = Oracle(truth * np.uint8(255))
    run = axial_run({1: np.zeros_like(truth), 2: truth})
    fused = fuse_orientations(oracle, run, (1.0, 1.0, 1.0))
    assert not fused.mask(1).any()
    np.testing.assert_array_equal(fused.mask(2), truth)
    assert len(oracle.views) == 2, "nothing was looked for along the other axes for the first one"


def test_an_object_that_is_said_to_be_absent_is_looked_for_nowhere_else() -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PHANTOM.pixels)
    predictor.add(Mask(slice=KEY, mask=np.zeros(SHAPE[1:], bool)))
    result = predictor.propagate()
    before = len(backend.calls)
    fused = fuse_orientations(predictor, result, SPACING_MM)
    assert not fused.mask(1)[KEY].any()
    assert len(backend.calls) == before


def test_each_plane_is_encoded_once_for_all_objects_and_none_between_them() -> None:
    model, backend = fake_model(TELLING)
    pixels = np.random.default_rng(3).integers(0, 255, (6, 64, 64), np.uint8)
    predictor = VolumePredictor(model)
    predictor.set_volume(pixels)
    for object_id, start in enumerate((4, 8, 50), 1):  # the first two overlap, the third is far off
        inside = np.zeros((64, 64), bool)
        inside[start : start + 10, start : start + 10] = True
        predictor.add(Mask(slice=3, mask=inside), object_id=object_id)
    result = predictor.propagate(z_range=(3, 4))
    backend.calls.clear()
    planes: list[int] = []
    counts: list[int] = []
    told = {"on_slice": planes.append, "on_encoded": counts.append}
    fused = fuse_orientations(predictor, result, (1.0, 1.0, 1.0), **told)
    encoded = [call.inputs["image"].tobytes() for call in backend.calls if "image" in call.inputs]
    extent = len({*range(2, 20), *range(48, 62)})  # margins of two
    assert len(encoded) == len(set(encoded)) == 2 * extent
    assert counts == [extent, extent]
    assert planes == [2 * 3 * 14] * (2 * 3 * 14), "each object along its own extent"
    assert fused.object_ids == (1, 2, 3)


def test_objects_are_followed_along_the_other_axes_as_if_they_were_alone() -> None:
    near, far = np.zeros((9, 40, 40), bool), np.zeros((9, 40, 40), bool)
    near[2:7, 4:14, 6:12], far[1:6, 28:36, 25:37] = True, True
    oracle = Oracle((near | far) * np.uint8(255))
    fused = fuse_orientations(oracle, axial_run({1: near, 2: far}), (1.0, 1.0, 1.0), "vote")
    np.testing.assert_array_equal(fused.mask(1), near)
    np.testing.assert_array_equal(fused.mask(2), far)
    along_y, along_x = oracle.views
    assert along_y.ranges == [(0, 14), (24, 36)]
    assert [box.slice for box in along_y.boxes] == [4 - 2, 28 - 2]
    assert along_x.ranges == [(0, 10), (19, 35)]


def test_the_other_axes_remember_by_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Watched(VolumePredictor):
        def __init__(
            self,
            model: Model,
            memory: MemoryRules,
            max_feature_bytes: int,
            encodings: None = None,
            zoom: float | None = None,
            smooth: float | None = None,
        ) -> None:
            made.append((memory, max_feature_bytes, zoom, smooth))
            super().__init__(model, memory, max_feature_bytes, zoom=zoom, smooth=smooth)

    monkeypatch.setattr(runtime.predictors.volume, "VolumePredictor", Watched)
    rules = MemoryRules(policy="self_sorting", pick_up="weighted")
    predictor = Watched(fake_model(TELLING)[0], rules, 10**6, None, 20.0, 0.5)
    predictor.set_volume(PHANTOM.pixels)
    predictor.add(PHANTOM.box(KEY, 1))
    fuse_orientations(predictor, predictor.propagate(), SPACING_MM)
    assert made == [(rules, 10**6, 20.0, 0.5)] * 3
