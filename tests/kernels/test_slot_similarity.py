from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.slot_similarity import slot_similarity

SLOTS, LENGTH = 5, 12
NUMBER = st.one_of(st.just(0.0), st.floats(2**-10, 1024, width=32))
SIGNED = st.builds(lambda value, sign: value * sign, NUMBER, st.sampled_from([-1.0, 1.0]))


def in_double(values: np.ndarray, slots: list[int], probe: np.ndarray) -> list[float]:
    a = probe.astype(np.float64).ravel()
    found = []
    for slot in slots:
        b = values[slot].astype(np.float64).ravel()
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        found.append(float(a @ b / lengths) if lengths else 0.0)
    return found


@settings(deadline=None)
@given(
    values=arrays(np.float32, (SLOTS, 3, 4), elements=SIGNED),
    probe=arrays(np.float32, (2, 2, 3), elements=SIGNED),
    slots=st.lists(st.integers(0, SLOTS - 1), max_size=7),
)
def test_cosines_are_those_of_flat_vectors_in_double_precision(
    values: np.ndarray, probe: np.ndarray, slots: list[int]
) -> None:
    found = slot_similarity(values, slots, probe)
    assert found.shape == (len(slots),)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, in_double(values, slots, probe), atol=2e-6)
    assert (np.abs(found) <= 1).all()


def test_cosines_by_hand() -> None:
    values = np.array([[3, 4], [4, 3], [-3, -4], [4, -3]], np.float32)
    found = slot_similarity(values, [3, 0, 1, 2, 0], np.array([6, 8], np.float32))
    np.testing.assert_allclose(found, [0, 1, 0.96, -1, 1], atol=1e-6)


def test_where_either_vector_is_zero_the_cosine_is_zero() -> None:
    values = np.stack([np.zeros(LENGTH), np.ones(LENGTH)]).astype(np.float32)
    assert slot_similarity(values, [0, 1], np.ones(LENGTH, np.float32)).tolist() == [0.0, 1.0]
    assert slot_similarity(values, [0, 1], np.zeros(LENGTH, np.float32)).tolist() == [0.0, 0.0]


def test_rounding_never_makes_a_cosine_of_more_than_one() -> None:
    vectors = np.random.default_rng(5).normal(size=(400, 33)).astype(np.float32)
    for slot, vector in enumerate(vectors):
        (same,) = slot_similarity(vectors, [slot], vector)
        (opposite,) = slot_similarity(vectors, [slot], -3 * vector)
        assert 1 >= same > 1 - 1e-6
        assert -1 <= opposite < -1 + 1e-6


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_compared_too(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(2)
    values, probe = rng.normal(size=(SLOTS, LENGTH)), rng.normal(size=LENGTH)
    values, probe = values.astype(dtype), probe.astype(dtype)
    slots = list(range(SLOTS))
    found = slot_similarity(values, slots, probe)
    np.testing.assert_allclose(found, in_double(values, slots, probe), atol=2e-6)


def test_nothing_is_written() -> None:
    values = np.random.default_rng(3).normal(size=(SLOTS, LENGTH)).astype(np.float32)
    probe, before = values[0].copy(), values.copy()
    slot_similarity(values, [1, 2], probe)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(probe, before[0])
