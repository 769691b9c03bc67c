"""How long it will still take, when every study costs something and the largest come first."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.cohort.estimate import FEWEST, Estimate, in_words


def test_nothing_is_said_before_anybody_knows() -> None:
    estimate = Estimate()
    for _ in range(FEWEST):
        assert estimate.seconds_left(1, 1, 1) is None
        estimate.add(100, 1.0)
    assert estimate.seconds_left(10, 1000, 1) == pytest.approx((10, 10))


def test_the_largest_first_do_not_deceive_it() -> None:
    sizes = np.sort(np.random.default_rng(0).integers(1, 1000, 100))[::-1]
    estimate = Estimate()
    for size in sizes[:20]:
        estimate.add(int(size), 2.0 + 0.01 * size)
    truth = float((2.0 + 0.01 * sizes[20:]).sum()) / 4
    assert estimate.seconds_left(80, int(sizes[20:].sum()), 4) == pytest.approx(
        (truth, truth), rel=1e-3
    )


def test_the_span_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        sizes = rng.integers(100, 1000, 60)
        seconds = (1 + 0.01 * sizes) * rng.uniform(0.7, 1.3, 60)
        estimate = Estimate()
        for size, took in zip(sizes[:15], seconds[:15], strict=True):
            estimate.add(int(size), float(took))
        low, high = estimate.seconds_left(45, int(sizes[15:].sum()), 1) or (0, 0)
        hits += low <= seconds[15:].sum() <= high
    assert hits >= 180


def test_studies_of_about_one_size_say_little_of_what_bytes_cost() -> None:
    rng = np.random.default_rng(2)
    estimate = Estimate()
    for _ in range(8):
        estimate.add(int(rng.integers(1000, 1050)), float(rng.uniform(2, 14)))
    low, high = estimate.seconds_left(30, 30 * 980, 1) or (0, 0)
    assert 90 < low < 240 < high < 480  # 8 s each; the line alone would say anything


def test_neither_part_of_the_line_is_negative() -> None:
    for points in (
        [(1, 9.0), (50, 5.0), (99, 1.0)],
        [(50, 1.0), (60, 9.0), (99, 99.0)],
        [(0, 1.0)] * 3,
    ):
        estimate = Estimate()
        for size, seconds in points:
            estimate.add(size, seconds)
        base, slope, scatter, _ = estimate.line
        assert base >= 0 and slope >= 0 and np.isfinite(scatter)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(9.4, "9 s"), (119, "119 s"), (200, "3 min"), (9000, "2 h"), (2.5e5, "3 d")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
