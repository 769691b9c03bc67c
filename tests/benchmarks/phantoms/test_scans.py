"""Shapes, CT-like volumes, and the folder that they are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.phantoms import scans, shapes
from benchmarks.phantoms.phantoms import Labelled
from benchmarks.phantoms.scans import make_scan
from benchmarks.training import pool as pools
from benchmarks.training.pool import Pool


def test_a_scan_is_a_function_of_its_seed() -> None:
    one, same, other = make_scan(3, 6, 64), make_scan(3, 6, 64), make_scan(4, 6, 64)
    np.testing.assert_array_equal(one.pixels, same.pixels)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert (one.pixels != other.pixels).any()
    assert one.pixels.dtype == one.labels.dtype == np.uint8
    assert one.pixels.shape == one.labels.shape == (6, 64, 64)


@pytest.mark.parametrize(("around", "is_lung"), [(60.0, False), (-90.0, False), (-840.0, True)])
def test_lesions_differ_little_from_soft_tissue_and_much_from_lung(
    around: float, is_lung: bool
) -> None:
    rng = np.random.default_rng(0)
    levels = [scans._lesion_level(rng, around, np.array([-30.0, 15.0])) for _ in range(20)]
    if is_lung:
        low, high = scans.NODULE_HU
        assert all(low <= level <= high for level in levels) and np.std(levels) > 5
    else:
        assert set(levels) == {around - 30, around + 15}


def test_lesions_are_seen_in_hounsfield_units_before_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scans, "_reconstruct", lambda rng, image: image)
    monkeypatch.setattr(scans, "_lesion_level", lambda rng, around, differences: 2000.0)
    seen = 0
    for seed in range(4):
        scan = make_scan(seed, 3, 64)
        seen += len(np.unique(scan.labels)) - 1
        assert (scan.pixels[scan.labels > 0] > 400).all()  # half of it, over air
        assert (scan.pixels[scan.labels == 0] < 1600).all()
    assert seen > 8


def test_the_window_and_the_noise_leave_something_to_see() -> None:
    for seed in range(4):
        scan = make_scan(seed, 4, 64)
        assert scan.pixels.std() > 8
        assert len(np.unique(scan.pixels)) > 60


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_shapes_are_whole_though_computed_near_themselves_alone(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        near = shapes.object_opacity(np.random.default_rng(seed), (5, 48, 48), 6, 2.0, family)
        with monkeypatch.context() as patch:
            implicit = shapes._implicit
            patch.setattr(shapes, "_implicit", lambda *a, of=implicit: of(*a[:-1], 1e4))
            whole = shapes.object_opacity(np.random.default_rng(seed), (5, 48, 48), 6, 2.0, family)
        np.testing.assert_allclose(near, whole, atol=1e-6)
        assert whole.max() > 0.5


def test_a_pool_makes_a_phantom_once_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make(seed: int, num_slices: int) -> Labelled:
        made.append(seed)
        pixels = np.full((num_slices, 4, 4), seed % 251, np.uint8)
        return Labelled(pixels, pixels * 0)

    monkeypatch.setattr(pools, "MAKERS", dict.fromkeys(pools.MAKERS, make))
    pool = Pool(tmp_path / "pool", len(pools.CYCLE))
    drawn = {kind: set() for kind in pools.MAKERS}
    for kind in drawn:
        rng = np.random.default_rng(0)
        for _ in range(40):
            source = pool.draw(rng, (kind,))
            assert source.shape == (2, pools.NUM_SLICES, 4, 4) and not source.flags.writeable
            drawn[kind].add(int(source[0, 0, 0, 0]))
    assert len(made) == len(set(made)) == pool.count
    assert {kind: len(greys) for kind, greys in drawn.items()} == {
        kind: pools.CYCLE.count(kind) for kind in drawn
    }
    assert not set.intersection(*drawn.values())
