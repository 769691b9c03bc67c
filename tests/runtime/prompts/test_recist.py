"""RECIST lines as boxes: geometry by hand and in general, and what is refused."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import PromptError
from runtime.prompts.prompts import Box, check_prompt
from runtime.prompts.recist import Recist, parse_recist

SHAPE = (9, 60, 80)
ends = st.tuples(st.floats(0, 59), st.floats(0, 79))


def test_a_line_along_an_axis_becomes_the_square_that_holds_its_voxels() -> None:
    assert Recist(4, (30.0, 20.0), (30.0, 29.0)).box(SHAPE) == Box(
        slice=4, y=(25.5, 35.5), x=(20.0, 30.0)
    )
    assert Recist(4, (20.0, 30.0), (29.0, 30.0)).box(SHAPE) == Box(
        slice=4, y=(20.0, 30.0), x=(25.5, 35.5)
    )


def test_a_line_aslant_is_as_long_as_its_square_is_wide() -> None:
    box = Recist(4, (20.0, 20.0), (23.0, 24.0)).box(SHAPE)
    assert box == Box(slice=4, y=(19.0, 25.0), x=(19.5, 25.5))


def test_what_lies_outside_the_slice_is_cut_off() -> None:
    assert Recist(0, (0.0, 10.0), (0.0, 29.0)).box(SHAPE) == Box(
        slice=0, y=(0.0, 10.5), x=(10.0, 30.0)
    )
    assert Recist(0, (59.0, 60.0), (59.0, 79.0)).box(SHAPE).y[1] == 60.0


@given(start=ends, end=ends)
def test_every_box_lies_within_the_slice_and_does_not_depend_on_the_order_of_the_ends(
    start: tuple[float, float], end: tuple[float, float]
) -> None:
    line = Recist(3, start, end)
    if line.length < 1:
        return
    box = line.box(SHAPE)
    check_prompt(box, SHAPE)
    assert box == Recist(3, end, start).box(SHAPE)
    for span, a, b, size in zip((box.y, box.x), start, end, SHAPE[1:], strict=True):
        assert span[1] - span[0] <= line.length + 1 + 1e-9
        assert span[0] <= (a + b + 1) / 2 <= span[1] <= size


def test_it_is_written_as_slice_and_ends() -> None:
    assert parse_recist("57,214,188,246.5,240") == Recist(57, (214.0, 188.0), (246.5, 240.0))


@pytest.mark.parametrize(
    "text", ["", "1,2,3,4", "1,2,3,4,5,6", "1,2,3,4,x", "1,2,3,4,nan", "1.5,2,3,4,5"]
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        parse_recist(text)


@pytest.mark.parametrize(
    "line",
    [
        Recist(9, (1.0, 1.0), (5.0, 5.0)),
        Recist(-1, (1.0, 1.0), (5.0, 5.0)),
        Recist(4, (1.0, 1.0), (60.0, 5.0)),
        Recist(4, (1.0, 80.0), (5.0, 5.0)),
        Recist(4, (1.0, nan), (5.0, 5.0)),
        Recist(4, (7.0, 7.0), (7.0, 7.5)),
    ],
)
def test_a_line_that_does_not_fit_is_refused(line: Recist) -> None:
    with pytest.raises(PromptError):
        line.box(SHAPE)
