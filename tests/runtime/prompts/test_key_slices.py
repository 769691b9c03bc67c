"""Which slices stand for a mask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.prompts.key_slices import key_slices


@given(st.lists(st.integers(0, 99), max_size=40), st.integers(1, 9))
def test_a_masks_slices_are_its_largest_its_ends_and_others_in_between(
    areas: list[int], count: int
) -> None:
    chosen = key_slices(areas, count)
    held = [i for i, area in enumerate(areas) if area >= max(1, 0.25 * max(areas))]
    assert chosen == sorted({*chosen}) and {*chosen} <= {*held}
    assert len(chosen) == min(count, len(held))
    if held:
        assert max(areas[i] for i in chosen) == max(areas)
    if count >= 3 and held:
        assert {held[0], held[-1]} <= {*chosen}


def test_ends_of_a_few_pixels_do_not_stand_for_a_mask() -> None:
    assert key_slices([0, 1, 30, 90, 100, 80, 25, 24, 0], 3) == [2, 4, 6]
