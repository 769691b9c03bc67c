from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle.contract import (
    LABEL_BOX_START,
    LABEL_BOX_STOP,
    LABEL_NEGATIVE,
    LABEL_PAD,
    LABEL_POSITIVE,
)
from runtime.errors import PromptError
from runtime.prompts.prompts import (
    MAX_OBJECT_ID,
    NO_POINTS,
    Box,
    Mask,
    Point,
    Prompt,
    check_object_id,
    check_prompt,
    to_mask,
    to_points,
)

SHAPE = (4, 30, 50)  # (z, y, x)
SIZE = 64
NAN = math.nan


@pytest.mark.parametrize(
    "prompt",
    [
        Point(y=0, x=0),
        Point(y=29, x=49, slice=3),
        Point(y=28.75, x=0.5),
        Point(y=1, x=1, slice=np.int64(3)),  # type: ignore[arg-type]
        Box(y=(0, 30), x=(0, 50)),
        Box(y=(29, 30), x=(49, 50), slice=3),
        Mask(mask=np.zeros((30, 50), bool)),
    ],
)
def test_a_prompt_up_to_the_border_fits(prompt: Prompt) -> None:
    check_prompt(prompt, SHAPE)


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (Point(y=1, x=1, slice=4), "no slice 4: slices are 0 to 3"),
        (Point(y=1, x=1, slice=-1), "no slice -1"),
        (Point(y=1, x=1, slice=1.5), "no slice 1.5"),  # type: ignore[arg-type]
        (Box(y=(0, 3), x=(0, 3), slice=4), "no slice 4"),
        (Mask(mask=np.zeros((30, 50)), slice=4), "no slice 4"),
        (Point(y=29.5, x=1), "point y = 29.5 is outside the slice: 0 to 29"),
        (Point(y=1, x=50), "point x = 50 is outside the slice: 0 to 49"),
        (Point(y=-0.5, x=1), "point y"),
        (Point(y=1, x=NAN), "point x"),
        (Box(y=(0, 31), x=(0, 3)), r"box y = \[0, 31\) .* within \[0, 30\)"),
        (Box(y=(0, 3), x=(0, 51)), r"box x = \[0, 51\) .* within \[0, 50\)"),
        (Box(y=(-1, 3), x=(0, 3)), "box y"),
        (Box(y=(3, 3), x=(0, 3)), "box y"),
        (Box(y=(0, 3), x=(4, 3)), "box x"),
        (Box(y=(0, NAN), x=(0, 3)), "box y"),
        (Box(y=(0, 3), x=(NAN, 3)), "box x"),
        (Mask(mask=np.zeros((50, 30))), r"mask is \(50, 30\), slices are \(30, 50\)"),
        (Mask(mask=np.zeros(SHAPE)), "mask is"),
        (Mask(mask=np.zeros((0, 50))), r"mask is \(0, 50\)"),
        (Box(y=(10.2, 10.2), x=(0, 3)), "box y"),
        (Box(y=(10.6, 10.2), x=(0, 3)), "box y"),
        (Box(y=(-0.1, 0.1), x=(0, 3)), "box y"),
        (Box(y=(0, 3), x=(49.9, 50.1)), "box x"),
        (Box(y=(0, math.inf), x=(0, 3)), "box y"),
        (Box(y=(-math.inf, 3), x=(0, 3)), "box y"),
        (Box(y=(0, 10**400), x=(0, 3)), "box y"),
        (Point(y=math.inf, x=3), "point y = inf is outside"),
        (Point(y=10**5000, x=3), "point y = a huge int is outside"),
        (Point(y=1, x=1, slice=10**5000), "no slice a huge int"),
    ],
)
def test_a_prompt_beyond_the_border_is_refused(prompt: Prompt, why: str) -> None:
    with pytest.raises(PromptError, match=why) as refused:
        check_prompt(prompt, SHAPE)
    assert refused.value.exit_code == 3


NOT_WELL_FORMED: list[tuple[Any, str]] = [
    (None, "found None; wanted a Point, a Box or a Mask"),
    ((5, 6), r"found \(5, 6\); wanted"),
    ("5,6", "found '5,6'; wanted"),
    (Point(y="4", x=1), "point y is '4'; wanted a number"),  # type: ignore[arg-type]
    (Point(y=None, x=1), "point y is None"),  # type: ignore[arg-type]
    (Point(y=1, x=True), "point x is True"),
    (Point(y=1, x=np.bool_(True)), "point x is True"),  # type: ignore[arg-type]
    (Point(y=1, x=1j), "point x is 1j"),  # type: ignore[arg-type]
    (Point(y=1, x=np.array([1.0, 2.0])), "point x is array"),  # type: ignore[arg-type]
    (Point(y=1, x=1, slice=True), "no slice True"),
    (Point(y=1, x=1, slice="1"), "no slice '1'"),  # type: ignore[arg-type]
    (Point(y=1, x=1, slice=None), "no slice None"),  # type: ignore[arg-type]
    (Point(y=1, x=1, positive="no"), "positive is 'no'; wanted True or False"),  # type: ignore[arg-type]
    (Point(y=1, x=1, positive=0), "positive is 0"),  # type: ignore[arg-type]
    (Box(y=(1,), x=(1, 2)), r"box y is \(1,\); wanted two numbers"),  # type: ignore[arg-type]
    (Box(y=(1, 2, 3), x=(1, 2)), "box y is"),  # type: ignore[arg-type]
    (Box(y=5, x=(1, 2)), "box y is 5"),  # type: ignore[arg-type]
    (Box(y=np.array(5), x=(1, 2)), r"box y is array\(5\); wanted two numbers"),  # type: ignore[arg-type]
    (Box(y=np.ones((2, 2)), x=(1, 2)), "box y is array"),  # type: ignore[arg-type]
    (Box(y="12", x=(1, 2)), "box y is '12'"),  # type: ignore[arg-type]
    (Box(y=(1, "2"), x=(1, 2)), "box y is '2'; wanted a number"),  # type: ignore[arg-type]
    (Box(y=(1, 2), x=(False, 2)), "box x is False"),
    (Mask(mask=None), "mask is None; wanted a numpy array"),  # type: ignore[arg-type]
    (Mask(mask=[[0, 1]]), r"mask is \[\[0, 1\]\]; wanted a numpy array"),  # type: ignore[arg-type]
    (Mask(mask=np.full((30, 50), "a")), "mask is an array of <U1"),
    (Mask(mask=np.full((30, 50), None)), "mask is an array of object"),
    (Mask(mask=np.full((30, 50), 1j)), "mask is an array of complex128"),
]


@pytest.mark.parametrize(("prompt", "why"), NOT_WELL_FORMED)
def test_what_is_no_well_formed_prompt_is_refused(prompt: Any, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        check_prompt(prompt, SHAPE)


LABELS = np.repeat(np.arange(5), 300).reshape(30, 50)


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (LABELS, "1, 2, 3, 4"),
        (LABELS.astype(np.uint8), "1, 2, 3, 4"),
        (LABELS / 4, "0.25, 0.5, 0.75, 1.0"),
        (np.full((30, 50), NAN), "nan"),
        ((LABELS == 2) - 1 * (LABELS == 1), "-1, 1"),
    ],
)
def test_a_mask_has_one_value_inside(mask: np.ndarray, values: str) -> None:
    with pytest.raises(PromptError, match=rf"several values \({values}\) inside.*labels == 2"):
        check_prompt(Mask(mask=mask), SHAPE)
    check_prompt(Mask(mask=mask == mask[20, 20]), SHAPE)
    check_prompt(Mask(mask=np.where(mask == mask[20, 20], 7.5, 0)), SHAPE)


@pytest.mark.parametrize(
    "object_id", [0, -1, 65536, 1.0, NAN, "1", None, True, np.True_, [10**5000]]
)
def test_an_object_id_is_a_label_of_sixteen_bits(object_id: Any) -> None:
    with pytest.raises(PromptError, match="is not a whole number from 1 to 65535"):
        check_object_id(object_id)
    with pytest.raises(PromptError, match="id a huge int is not"):
        check_object_id(10**5000)
    for fits in (1, MAX_OBJECT_ID, np.uint16(MAX_OBJECT_ID)):
        check_object_id(fits)


def corners(*span: float) -> list[float]:
    """The first and the last index in x of a box over `span`, in a slice as large as the model's."""
    found = to_points([Box(y=(0, 1), x=(span[0], span[1]))], (SIZE, SIZE), SIZE)
    return found.coords[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        ((3, 10), (3, 9)),
        ((3, 4), (3, 3)),
        ((3.25, 10.5), (3.25, 9.5)),
        ((3.25, 4.25), (3.25, 3.25)),
        ((10.25, 10.75), (10, 10)),  # its centre, 10.5, is that of voxel 10
        ((10.75, 11.25), (10.5, 10.5)),
        ((0, 0.5), (0, 0)),
        ((63.5, 64), (63, 63)),
    ],
)
def test_a_box_is_its_first_and_last_voxel_or_its_centre(
    span: tuple[float, float], wanted: tuple[float, float]
) -> None:
    assert corners(*span) == list(wanted)


@given(st.floats(0, SIZE), st.floats(0, SIZE))
def test_no_boxs_corners_turn_round_or_leave_the_slice(one: float, other: float) -> None:
    start, stop = sorted((one, other))
    if start == stop:
        return
    first, last = corners(start, stop)
    assert 0 <= first <= last <= SIZE - 1
    centre = min(max((start + stop - 1) / 2, 0), SIZE - 1)
    assert (first + last) / 2 == pytest.approx(centre, abs=1e-4)


def test_a_half_open_box_becomes_its_first_and_last_voxel() -> None:
    found = to_points([Box(y=(3, 10), x=(5, 41))], (SIZE, SIZE), SIZE)
    np.testing.assert_array_equal(found.coords, [[[5, 3], [40, 9]]])
    np.testing.assert_array_equal(found.labels, [[LABEL_BOX_START, LABEL_BOX_STOP]])


def test_the_box_comes_first_wherever_it_was_given() -> None:
    prompts = [Point(y=1, x=2), Box(y=(3, 10), x=(5, 41)), Point(y=3, x=4, positive=False)]
    found = to_points(prompts, (SIZE, SIZE), SIZE)
    np.testing.assert_array_equal(found.coords, [[[5, 3], [40, 9], [2, 1], [4, 3]]])
    labels = [LABEL_BOX_START, LABEL_BOX_STOP, LABEL_POSITIVE, LABEL_NEGATIVE]
    np.testing.assert_array_equal(found.labels, [labels])
    assert found.coords.dtype == np.float32
    assert found.labels.dtype == np.int64


@given(
    shape=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=st.sampled_from([64, 256, 512, 1024]),
)
def test_points_are_scaled_as_upstream_scales_them(
    shape: tuple[int, int], share: tuple[float, float], size: int
) -> None:
    """Divided by the slice's size, then multiplied by the model's, both in float32."""
    y, x = (np.float32(part * (side - 1)) for part, side in zip(share, shape, strict=True))
    found = to_points([Point(y=float(y), x=float(x))], shape, size)
    wanted = (x / np.float32(shape[1]) * np.float32(size), y / np.float32(shape[0]) * size)
    assert found.coords[0, 0].tolist() == [float(value) for value in wanted]


@pytest.mark.parametrize(
    ("prompts", "multimask"),
    [
        ([Point(y=1, x=1)], True),
        ([Point(y=1, x=1, positive=False)], True),
        ([Point(y=1, x=1), Point(y=2, x=2)], False),
        ([Box(y=(1, 3), x=(1, 3))], False),
        ([Box(y=(1, 3), x=(1, 3)), Point(y=2, x=2)], False),
    ],
)
def test_only_a_single_click_leaves_a_choice_of_masks(
    prompts: list[Point | Box], multimask: bool
) -> None:
    assert to_points(prompts, (SIZE, SIZE), SIZE).multimask is multimask


def test_without_prompts_one_pad_point_is_fed_and_masks_are_chosen_from() -> None:
    np.testing.assert_array_equal(NO_POINTS.labels, [[LABEL_PAD]])
    assert NO_POINTS.coords.shape == (1, 1, 2)
    assert NO_POINTS.multimask


WEIGHT = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
BIAS = np.float32(0.25)


def masked(mask: np.ndarray, size: int = SIZE) -> Any:
    return to_mask(mask, size, WEIGHT, BIAS)


def test_a_mask_prompt_is_downsampled_by_the_convolution_of_the_model() -> None:
    inside = np.random.default_rng(5).random((SIZE, SIZE)) > 0.5
    found = masked(inside)
    side = SIZE // 4
    dense = np.empty((side, side))
    for i in range(side):
        for j in range(side):
            dense[i, j] = BIAS + (inside[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] * WEIGHT).sum()
    assert found.decoder_input.shape == (1, 1, side, side)
    assert found.decoder_input.dtype == found.low_res_logits.dtype == np.float32
    np.testing.assert_allclose(found.decoder_input[0, 0], dense, rtol=1e-6)
    assert not found.is_empty


def test_the_logits_of_a_mask_prompt_are_ten_on_either_side() -> None:
    inside = np.zeros((SIZE, SIZE), bool)
    inside[16:48, 8:40] = True
    logits = masked(inside).low_res_logits
    assert logits.shape == (SIZE // 4, SIZE // 4)
    np.testing.assert_array_equal(logits > 0, inside[2::4, 2::4])
    np.testing.assert_allclose(logits[5:11, 3:9], 10, rtol=1e-6)
    np.testing.assert_allclose(logits[:3], -10, rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_whatever_is_not_zero_is_inside(dtype: type) -> None:
    mask = np.zeros((SIZE, SIZE), dtype)
    mask[8:40, 8:40] = 1
    truth = masked(mask.astype(bool))
    for value in (1, 200):
        np.testing.assert_array_equal(
            masked(mask * dtype(value)).decoder_input, truth.decoder_input
        )


def test_a_mask_of_another_size_is_brought_to_the_models() -> None:
    mask = np.zeros((30, 50), bool)
    mask[:15] = True
    found = masked(mask)
    assert (found.low_res_logits[:7] > 9).all()
    assert (found.low_res_logits[9:] < -9).all()


def test_an_empty_mask_says_that_the_object_is_absent() -> None:
    found = masked(np.zeros((30, 50), np.uint8))
    assert found.is_empty
    np.testing.assert_allclose(found.low_res_logits, -10, rtol=1e-6)
    np.testing.assert_array_equal(found.decoder_input, BIAS)
