"""What is done to clean volumes: where, how much, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from export.damage import DAMAGED_AT, DAMAGES, GHOST_SHARE
from export.labelled import Case
from runtime import Volume

DEPTH, SIDE = 15, 60
KEY = 7


def case(key: int = KEY, present: tuple[int, int] = (3, 12)) -> Case:
    """A bright square on some slices of a dark, textured volume."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(40, 90, (DEPTH, SIDE, SIDE), dtype=np.uint8)
    truth = np.zeros(pixels.shape, bool)
    truth[present[0] : present[1], 25:35, 24:33] = True
    pixels[truth] = rng.integers(180, 220, int(truth.sum()), dtype=np.uint8)
    return Case("made", Volume.from_array(pixels), truth, key)


every_damage = pytest.mark.parametrize("name", DAMAGES)


@every_damage
@pytest.mark.parametrize("key", [0, 2, KEY, DEPTH - 1])
def test_the_prompted_slice_and_the_volume_given_stay_as_they_were(name: str, key: int) -> None:
    made = case(key, (0, DEPTH))
    before = made.volume.array.copy()
    seen, damaged = DAMAGES[name].do(made, made.volume.array)
    np.testing.assert_array_equal(made.volume.array, before)
    np.testing.assert_array_equal(seen[key], before[key])
    assert seen.dtype == np.uint8 and seen.shape == before.shape
    assert key not in damaged and all(0 <= i < DEPTH for i in damaged)


@every_damage
def test_the_same_case_is_damaged_in_the_same_way(name: str) -> None:
    made = case()
    first, second = (DAMAGES[name].do(made, made.volume.array)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "slices"),
    [
        ("clean", []),
        ("noise", [4, 10]),
        ("motion", [4, 10]),
        ("missing", [3, 4, 10, 11]),
        ("contrast", [*range(5), *range(10, DEPTH)]),
        ("distractors", [3, 4, 5, 6, 8, 9, 10, 11]),
    ],
)
def test_nothing_else_is_changed(name: str, slices: list[int]) -> None:
    made = case()
    seen, damaged = DAMAGES[name].do(made, made.volume.array)
    changed = (seen != made.volume.array).any((1, 2))
    assert np.flatnonzero(changed).tolist() == slices
    assert damaged == ([] if name in ("contrast", "distractors") else slices)


def test_lost_slices_are_black_and_moved_ones_show_the_object_twice() -> None:
    made = case()
    assert not DAMAGES["missing"].do(made, made.volume.array)[0][KEY + DAMAGED_AT].any()
    ghost = DAMAGES["motion"].do(made, made.volume.array)[0][KEY + DAMAGED_AT].astype(int)
    step = SIDE // GHOST_SHARE
    both = ghost[25 + step : 35, 24:33].mean(), ghost[35 : 35 + step, 24:33].mean()
    assert both[0] > both[1] > ghost[:20].mean() + 30


def test_look_alikes_lie_beside_the_object_and_never_on_it() -> None:
    made = case()
    seen, _ = DAMAGES["distractors"].do(made, made.volume.array)
    np.testing.assert_array_equal(seen[made.truth], made.volume.array[made.truth])
    bright = (seen[KEY + 1] > 170).sum()
    assert bright == 3 * made.truth[KEY + 1].sum()


def test_look_alikes_at_an_edge_are_cut_off() -> None:
    made = case()
    truth = np.roll(made.truth, (0, -25, -24), (0, 1, 2))
    moved = Case("edge", made.volume, truth, KEY)
    seen, _ = DAMAGES["distractors"].do(moved, made.volume.array)
    assert seen.shape == made.volume.shape
