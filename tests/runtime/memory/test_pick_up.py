from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.memory.pick_up import PICK_UPS, Weights

similarities = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=24)
every_pick_up = pytest.mark.parametrize("pick_up", PICK_UPS)


def weigh(pick_up: str, similarity: list[float], seed: int = 0) -> Weights:
    return PICK_UPS[pick_up](np.array(similarity, np.float32), np.random.default_rng(seed))


@every_pick_up
@settings(deadline=None)
@given(similarity=similarities, seed=st.integers(0, 2**32 - 1))
def test_k_records_weigh_k_in_all_and_none_less_than_nothing(
    pick_up: str, similarity: list[float], seed: int
) -> None:
    weights = weigh(pick_up, similarity, seed)
    assert len(weights) == len(similarity)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(len(similarity))


@settings(deadline=None)
@given(similarity=similarities)
def test_all_weighs_every_record_once(similarity: list[float]) -> None:
    assert weigh("all", similarity) == (1.0,) * len(similarity)


def test_weights_by_hand() -> None:
    assert weigh("weighted", [0.75, 0.25, -0.5, 0.5, 0.0]) == pytest.approx(
        (2.5, 5 / 6, 0, 5 / 3, 0)
    )
    assert weigh("weighted", [0.25]) == (1.0,)


def test_weighted_is_what_resampling_gives_on_average() -> None:
    similarity = [0.9, 0.1, 0.5, -0.3, 0.4]
    drawn = np.mean([weigh("resample", similarity, seed) for seed in range(4000)], 0)
    np.testing.assert_allclose(drawn, weigh("weighted", similarity), atol=0.06)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 17, 49])
@pytest.mark.parametrize("cosine", [1.0, 0.7, 0.3, 0.0, -0.4])
def test_equal_similarities_weigh_exactly_one_each(count: int, cosine: float) -> None:
    weights = np.array(weigh("weighted", [cosine] * count), np.float32)  # as the graph gets them
    assert (weights == 1).all()


def test_a_negative_cosine_counts_as_zero() -> None:
    for pick_up in ("weighted", "resample"):
        for seed in range(20):
            with_negative = weigh(pick_up, [0.5, -0.9, 0.25], seed)
            assert with_negative[1] == 0
            assert with_negative == weigh(pick_up, [0.5, 0.0, 0.25], seed)


def test_where_all_cosines_are_negative_all_records_count_alike() -> None:
    assert weigh("weighted", [-0.9, -0.1, -0.5, -0.5]) == (1.0, 1.0, 1.0, 1.0)
    drawn = np.mean([weigh("resample", [-0.9, -0.1, -0.5], seed) for seed in range(2000)], 0)
    np.testing.assert_allclose(drawn, 1.0, atol=0.1)


@settings(deadline=None)
@given(similarity=similarities, seed=st.integers(0, 2**32 - 1))
def test_draws_are_whole_numbers_that_the_seed_decides(similarity: list[float], seed: int) -> None:
    counts = weigh("resample", similarity, seed)
    assert all(count == int(count) for count in counts)
    assert sum(counts) == len(similarity)
    assert weigh("resample", similarity, seed) == counts


def test_another_seed_draws_otherwise() -> None:
    assert len({weigh("resample", [0.5, 0.4, 0.3, 0.2], seed) for seed in range(30)}) > 10
