"""Which slices and objects a sequence shows, and in which window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.training import views
from benchmarks.training.cuts import (
    CUTS,
    MIN_AREA,
    Cut,
    cut_flow,
    cut_scattered,
    cut_volume,
    stands_out,
)
from benchmarks.training.views import view

SIDE, DEPTH = 64, 24


def source_of(spans: dict[int, tuple[int, int]], side: int = 10) -> np.ndarray:
    """A volume with a bright square for each label, on slices start to stop, each in a row of its own."""
    labels = np.zeros((DEPTH, SIDE, SIDE), np.uint8)
    for label, (start, stop) in spans.items():
        y = 4 + 16 * (label - 1)
        labels[start:stop, y : y + side, 20 : 20 + side] = label
    pixels = (labels > 0) * np.uint8(160) + np.arange(DEPTH, dtype=np.uint8)[:, None, None]
    return np.stack([pixels, labels])


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_slices_are_neighbours_in_order_and_the_prompted_one_holds_the_leader() -> None:
    source = source_of({1: (0, DEPTH), 2: (6, 12)})
    cuts = [cut for rng in rngs(40) if (cut := cut_volume(rng, source, 6)) is not None]
    assert len(cuts) > 25
    for cut in cuts:
        assert cut.pixels.shape == cut.labels.shape == (6, SIDE, SIDE)
        assert (cut.labels[0] == cut.leader).sum() >= MIN_AREA
        steps = np.diff(cut.pixels[:, 0, 0].astype(int))
        assert len(set(np.abs(steps[1:]))) == 1 and len(set(np.sign(steps))) == 1
        assert cut.apart == 0 and not cut.is_flow


def test_many_objects_end_within_their_sequence() -> None:
    source = source_of({1: (4, 14), 2: (6, 20), 3: (0, 9)})
    absent, ended = [], []
    for rng in rngs(200):
        if (cut := cut_volume(rng, source, 8)) is not None:
            present = (cut.labels == cut.leader).any((1, 2))
            absent.append(1 - present.mean())
            ended.append(not present[-1])
    assert np.mean(ended) > 0.75
    assert 0.3 < np.mean(absent) < 0.6


@pytest.mark.parametrize("spans", [{}, {1: (3, 3)}])
def test_volumes_without_objects_are_passed_over(spans: dict[int, tuple[int, int]]) -> None:
    assert all(cut_volume(rng, source_of(spans), 6) is None for rng in rngs(5))


def test_an_object_that_cannot_be_told_from_what_is_about_it_is_passed_over() -> None:
    source = source_of({1: (0, DEPTH)})
    source[0] = 90
    assert all(cut_volume(rng, source, 4) is None for rng in rngs(5))
    assert all(cut_flow(rng, source, 4) is None for rng in rngs(5))
    assert not stands_out(source[0, 0], np.ones((SIDE, SIDE), bool))


def test_flows_are_different_pictures_in_any_order() -> None:
    source = source_of({1: (0, DEPTH)})
    orders = set()
    for rng in rngs(10):
        cut = cut_flow(rng, source, 5)
        assert cut is not None and cut.is_flow and cut.leader == 1
        order = tuple(cut.pixels[:, 0, 0])
        assert len(set(order)) == 5
        orders.add(order)
    assert len(orders) > 5


def test_scattered_slices_lie_between_volumes_and_flows() -> None:
    source = source_of({1: (0, DEPTH)})
    cuts = [cut_scattered(rng, source, 4) for rng in rngs(30)]
    apart = [cut.apart for cut in cuts if cut is not None]
    assert min(apart) < 0.2 and max(apart) > 0.8
    assert all(cut.is_flow for cut in cuts if cut is not None)


def test_shares_of_the_cuts_add_up() -> None:
    assert sum(share for *_, share in CUTS.values()) == pytest.approx(1)


def cut_of(apart: float = 0.0, is_flow: bool = False, num_slices: int = 4) -> Cut:
    pixels, labels = source_of({1: (0, DEPTH), 2: (0, DEPTH), 3: (0, DEPTH)}, 12)[:, :num_slices]
    return Cut(pixels, labels, 2, apart, is_flow)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No changes of grey levels, windows about the leader."""
    monkeypatch.setattr(
        views, "_regrade", lambda rng, images, masks: ((images * 255).byte(), masks)
    )
    choose(monkeypatch, 1)
    return monkeypatch


def choose(monkeypatch: pytest.MonkeyPatch, how: int) -> None:
    names = ("WHOLE", "ZOOMED", "CROPPED")
    for index, name in enumerate(names):
        monkeypatch.setattr(views, name, float(index == how))


def test_a_zoomed_window_shows_the_leader_as_large_as_it_should(plain: pytest.MonkeyPatch) -> None:
    for rng in rngs(30):
        seen = view(rng, cut_of(), 128, 3)
        assert seen is not None
        ys, xs = np.nonzero(seen[1][0, 0].numpy())
        extent = max(np.ptp(ys), np.ptp(xs)) + 1
        assert 128 / views.ZOOMS[1] - 2 <= extent <= min(128 / views.ZOOMS[0], 64) + 2
        middle = np.array([ys.mean(), xs.mean()]) / 128 - 0.5
        assert np.abs(middle).max() < views.OFF_CENTRE + 0.05


def test_the_whole_slice_shows_everything(plain: pytest.MonkeyPatch) -> None:
    choose(plain, 0)
    for rng in rngs(8):
        images, masks = view(rng, cut_of(), SIDE, 3)
        assert masks.shape == (3, 4, SIDE, SIDE)
        assert masks.sum((2, 3)).eq(144).all()
        assert np.isin(cut_of().pixels[0], images[0].numpy()).all()


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("how", [0, 1, 2])
def test_masks_lie_where_their_objects_are_drawn(
    how: int, apart: float, plain: pytest.MonkeyPatch
) -> None:
    choose(plain, how)
    cut = cut_of(apart, apart > 0)
    for rng in rngs(6):
        images, masks = view(rng, cut, 96, 3)
        drawn = masks.amax(0) > 0
        assert (images[drawn].float() > 75).all()
        assert masks[0, 0].sum() >= views.MIN_VISIBLE


def test_slices_that_are_apart_are_moved_on_their_own_and_others_together(
    plain: pytest.MonkeyPatch,
) -> None:
    def spread(apart: float) -> float:
        middles = []
        for rng in rngs(6):
            _, masks = view(rng, cut_of(apart, True), 96, 1)
            seen = [np.argwhere(m.numpy()).mean(0) for m in masks[0] if m.any()]
            middles.append(np.std(seen, 0).mean())
        return float(np.mean(middles))

    assert spread(0.0) < 0.01
    assert 1 < spread(0.2) < spread(1.0)


def test_a_flow_has_one_object_and_a_volume_several(plain: pytest.MonkeyPatch) -> None:
    choose(plain, 0)
    _, flow = view(np.random.default_rng(0), cut_of(is_flow=True), 64, 3)
    _, volume = view(np.random.default_rng(0), cut_of(), 64, 3)
    assert len(flow) == 1 and len(volume) == 3


def test_nothing_of_a_ruined_slice_is_wanted_unless_it_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "CORRUPT_SHARE", 1.0)
    gone = kept = 0
    for rng in rngs(60):
        images, masks = torch.full((4, 32, 32), 0.6), torch.ones(1, 4, 32, 32)
        images, masks = views._regrade(rng, images, masks)
        assert images.dtype == torch.uint8 and masks[:, 0].all()
        empty = [t for t in range(4) if not masks[0, t].any()]
        spread = images.float().flatten(1).std(1)
        gone += len(empty)
        kept += not empty
        for index in empty:
            assert spread[index] == 0 or spread[index] > 40
    assert gone > 15 and kept > 15
