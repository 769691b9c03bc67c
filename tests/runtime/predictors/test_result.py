from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.smooth import smooth
from runtime.bundle.tensors import LowResMask
from runtime.errors import InputError
from runtime.predictors.region import Region
from runtime.predictors.result import Result, SliceMask, check_smooth
from runtime.prompts.prompts import MAX_OBJECT_ID
from runtime.track import Segmented

SIDE = 8
SHAPE = (4, SIDE, SIDE)
POINTER = np.zeros(2, np.float32)


def slice_mask(
    index: int,
    object_id: int,
    logits: np.ndarray | float,
    iou: float = 0.8,
    score: float = 1.0,
    read: tuple[int, ...] = (),
) -> SliceMask:
    full = np.broadcast_to(np.asarray(logits, np.float32), (SIDE, SIDE))
    segmented = Segmented(full, iou, score, POINTER, read, (1.0,) * len(read))
    return SliceMask(index, object_id, segmented, (SIDE, SIDE))


def result(*masks: SliceMask, depth: int = SHAPE[0], is_ordered: bool = True) -> Result:
    slices: dict[int, dict[int, SliceMask]] = {}
    for mask in masks:
        slices.setdefault(mask.object_id, {})[mask.slice] = mask
    return Result((SHAPE[1:],) * depth, slices, is_ordered=is_ordered)


def columns(start: int, stop: int, level: float) -> np.ndarray:
    """Logits above zero in some columns."""
    logits = np.full((SIDE, SIDE), -1.0, np.float32)
    logits[:, start:stop] = level
    return logits


@pytest.mark.parametrize("crop", [None, Region((4, 12), (2, 18))])
def test_a_mask_is_smoothed_before_it_is_resized(crop: Region | None) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE)).astype(np.float32)
    plain = SliceMask(0, 1, slice_mask(0, 1, logits).segmented, (16, 24), crop)
    by_hand = replace(plain, segmented=replace(plain.segmented, low_res=smooth(logits, 0.7)))
    found = replace(plain, smooth=0.7)
    np.testing.assert_array_equal(found.logits(), by_hand.logits())
    assert (found.mask() != plain.mask()).any()
    np.testing.assert_array_equal(found.segmented.logits, logits)


@pytest.mark.parametrize("sigma", [-0.1, 8.1, np.nan, np.inf, "1", True])
def test_a_smoothing_is_a_number_within_reason(sigma: Any) -> None:
    with pytest.raises(InputError, match="sigma of a Gaussian"):
        check_smooth(sigma)
    assert (check_smooth(None), check_smooth(1)) == (0.0, 1.0)


def test_masks_are_what_is_above_zero_at_the_size_of_the_slice() -> None:
    mask = slice_mask(0, 1, columns(2, 5, 3.0))
    assert mask.logits().dtype == np.float32
    np.testing.assert_array_equal(mask.mask()[0], [0, 0, 1, 1, 1, 0, 0, 0])
    larger = SliceMask(0, 1, mask.segmented, (16, 24))
    assert larger.mask().shape == (16, 24)
    np.testing.assert_array_equal(larger.mask()[:, 1::3], mask.mask().repeat(2, 0))
    assert not slice_mask(0, 1, 0.0).mask().any(), "zero is outside"


def test_where_objects_overlap_the_larger_logit_wins() -> None:
    found = result(
        slice_mask(1, 9, columns(0, 4, 2.0)),
        slice_mask(1, 4, columns(2, 6, 3.0)),
        slice_mask(1, 7, columns(3, 8, 1.0)),
    )
    labels = found.labels()
    assert labels.dtype == np.uint8
    for row in labels[1]:
        assert row.tolist() == [9, 9, 4, 4, 4, 4, 7, 7]
    assert not labels[[0, 2, 3]].any()


def test_the_lower_id_wins_among_equal_logits() -> None:
    found = result(slice_mask(0, 7, 2.0), slice_mask(0, 3, 2.0))
    assert (found.labels()[0] == 3).all()


def test_only_logits_above_zero_are_labelled() -> None:
    assert not result(slice_mask(0, 1, 0.0)).labels().any()


@pytest.mark.parametrize(
    ("object_id", "dtype"),
    [(1, np.uint8), (255, np.uint8), (256, np.uint16), (MAX_OBJECT_ID, np.uint16)],
)
def test_ids_above_255_need_sixteen_bits(object_id: int, dtype: type) -> None:
    labels = result(slice_mask(0, 1, -1.0), slice_mask(2, object_id, 1.0)).labels()
    assert labels.dtype == dtype
    assert (labels[2] == object_id).all()


def test_masks_of_single_objects_may_overlap_and_all_together_are_their_union() -> None:
    found = result(slice_mask(1, 1, columns(0, 4, 1.0)), slice_mask(1, 2, columns(3, 6, 2.0)))
    assert found.object_ids == (1, 2)
    np.testing.assert_array_equal(found.mask(1)[1, 0], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.mask(2)[1, 0], [0, 0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(found.mask(), found.mask(1) | found.mask(2))
    assert found.mask().shape == SHAPE


def test_confidence_is_the_lowest_among_the_objects_and_nan_where_nothing_was_segmented() -> None:
    found = result(
        slice_mask(0, 1, 1.0, iou=0.9),
        slice_mask(1, 1, 1.0, iou=0.9),
        slice_mask(1, 2, 1.0, iou=0.6),
        slice_mask(2, 2, 1.0, iou=0.7, score=-0.5),
    )
    nan = np.nan
    np.testing.assert_allclose(found.confidence_of(1), [0.9, 0.9, nan, nan], rtol=1e-6)
    np.testing.assert_allclose(found.confidence_of(2), [nan, 0.6, 0.0, nan], rtol=1e-6)
    np.testing.assert_allclose(found.confidence, [0.9, 0.6, 0.0, nan], rtol=1e-6)
    assert found.confidence.dtype == np.float32


def test_a_result_without_objects_is_empty_everywhere() -> None:
    found = result()
    assert found.object_ids == ()
    assert np.isnan(found.confidence).all()
    assert found.confidence.shape == (4,)
    assert not found.mask().any()
    assert not found.labels().any()


def tracked(index: int, object_id: int, confidence: float) -> SliceMask:
    """Read slice 0; confidence 0 says that the object was not found."""
    score = 1.0 if confidence else -1.0
    return slice_mask(index, object_id, 1.0, confidence or 0.7, score, read=(0,))


def of_depth(depth: int, *masks: SliceMask, is_ordered: bool = True) -> Result:
    return result(*masks, depth=depth, is_ordered=is_ordered)


def test_the_least_confident_masks_are_the_first_to_review() -> None:
    confidences = (0.9, 0.3, 0.8, 0.5, 0.6)
    found = of_depth(5, *(tracked(index, 1, c) for index, c in enumerate(confidences)))
    wanted = [(1, 1, 0.3), (3, 1, 0.5), (4, 1, 0.6), (2, 1, 0.8), (0, 1, 0.9)]
    assert found.review() == wanted
    for count in range(7):
        assert found.review(count) == wanted[:count]


def test_equally_confident_masks_come_slice_by_slice_and_object_by_object() -> None:
    each = [(2, 7), (0, 7), (2, 3), (1, 3)]
    found = of_depth(3, *(tracked(index, object_id, 0.5) for index, object_id in each))
    assert found.review() == [(0, 7, 0.5), (1, 3, 0.5), (2, 3, 0.5), (2, 7, 0.5)]


def test_slices_that_were_prompted_need_no_review() -> None:
    found = of_depth(3, slice_mask(0, 1, 1.0, iou=0.1), tracked(1, 1, 0.9), tracked(2, 1, 0.8))
    assert found.review() == [(2, 1, 0.8), (1, 1, 0.9)]
    assert of_depth(1, slice_mask(0, 1, 1.0)).review() == []
    assert of_depth(3).review() == []


def test_slices_without_the_object_are_reviewed_where_it_ends_only() -> None:
    confidences = (0.0, 0.0, 0.6, 0.9, 0.0, 0.8, 0.0, 0.0)
    found = of_depth(8, *(tracked(index, 1, c) for index, c in enumerate(confidences)))
    assert found.review() == [
        *[(1, 1, 0.0), (4, 1, 0.0), (6, 1, 0.0)],
        *[(2, 1, 0.6), (5, 1, 0.8), (3, 1, 0.9)],
    ]


def test_the_end_beside_a_prompted_slice_is_reviewed() -> None:
    found = of_depth(3, slice_mask(0, 1, 1.0), tracked(1, 1, 0.0), tracked(2, 1, 0.0))
    assert found.review() == [(1, 1, 0.0)]
    absent = of_depth(2, slice_mask(0, 1, -1.0, score=-1.0), tracked(1, 1, 0.0))
    assert absent.review() == [], "somebody has said that it is not there"


def test_where_one_object_ends_is_no_end_of_another() -> None:
    found = of_depth(2, tracked(0, 1, 0.9), tracked(1, 1, 0.8), tracked(1, 2, 0.0))
    assert found.review() == [(1, 1, 0.8), (0, 1, 0.9)]


def test_images_of_a_set_have_no_neighbours_so_all_that_lost_the_object_are_reviewed() -> None:
    masks = [tracked(index, 1, c) for index, c in enumerate((0.9, 0.0, 0.0, 0.0, 0.7))]
    found = of_depth(5, *masks, is_ordered=False)
    assert [index for index, *_ in found.review()] == [1, 2, 3, 4, 0]


def test_one_object_may_be_reviewed_alone() -> None:
    found = of_depth(2, tracked(0, 1, 0.9), tracked(1, 2, 0.2), tracked(1, 1, 0.3))
    assert found.review(object_id=1) == [(1, 1, 0.3), (0, 1, 0.9)]
    assert found.review(1, object_id=2) == [(1, 2, 0.2)]


def test_labels_of_a_slice_are_its_part_of_all_labels() -> None:
    found = result(
        slice_mask(1, 9, columns(0, 4, 2.0)),
        slice_mask(1, 4, columns(2, 6, 3.0)),
        slice_mask(3, 300, columns(5, 8, 1.0)),
    )
    labels = found.labels()
    for index in range(SHAPE[0]):
        assert found.labels_of(index).dtype == labels.dtype == np.uint16
        np.testing.assert_array_equal(found.labels_of(index), labels[index])
    assert found.labels_of(1)[0].tolist() == [9, 9, 4, 4, 4, 4, 0, 0]
    assert not found.labels_of(0).any()


def test_slices_of_several_sizes_have_labels_of_their_own_but_no_shape() -> None:
    here = slice_mask(0, 3, columns(0, 4, 2.0))
    there = SliceMask(1, 3, here.segmented, (16, 24))
    found = Result(((SIDE, SIDE), (16, 24)), {3: {0: here, 1: there}})
    assert found.labels_of(0).shape == (SIDE, SIDE)
    np.testing.assert_array_equal(found.labels_of(1), 3 * there.mask())
    with pytest.raises(InputError, match="images of 2 sizes are no volume"):
        found.labels()


def test_what_was_in_memory_is_told_slice_by_slice() -> None:
    mask = slice_mask(3, 1, 1.0, read=(0, 2))
    assert (mask.memory_frames, mask.memory_weights) == ((0, 2), (1.0, 1.0))
    assert slice_mask(3, 1, 1.0).memory_frames == ()


@pytest.mark.parametrize(
    "ask", [Result.mask, Result.confidence_of, lambda found, chosen: found.review(None, chosen)]
)
def test_an_unknown_object_is_named_beside_those_there_are(ask) -> None:
    with pytest.raises(InputError, match=r"no object 5; there are: \[1, 2\]"):
        ask(result(slice_mask(0, 2, 1.0), slice_mask(0, 1, 1.0)), 5)


@pytest.mark.parametrize("index", [-1, 4, 10**30, 1.0, "1", None, True, np.float64(1)])
def test_a_slice_that_is_not_there_has_no_labels(index: Any) -> None:
    found = result(slice_mask(0, 1, 1.0), slice_mask(3, 1, 1.0))
    with pytest.raises(InputError, match=r"there is no slice .*: slices are 0 to 3"):
        found.labels_of(index)
    with pytest.raises(InputError, match="there is no slice"):
        Result(found.shapes, {1: {index: slice_mask(0, 1, 1.0)}})


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_numpys_whole_numbers_ask_for_slices_and_objects_too(kind: Any) -> None:
    found = result(tracked(3, 1, 0.5))
    np.testing.assert_array_equal(found.labels_of(kind(3)), found.labels_of(3))
    np.testing.assert_array_equal(found.mask(kind(1)), found.mask(1))
    assert found.review(kind(1), object_id=kind(1)) == [(3, 1, 0.5)]


@pytest.mark.parametrize("object_id", [True, 1.0, "1", -1])
def test_an_object_is_asked_for_by_a_whole_number(object_id: Any) -> None:
    for ask in (Result.mask, Result.confidence_of):
        with pytest.raises(InputError, match="no object"):
            ask(result(slice_mask(0, 1, 1.0)), object_id)


@pytest.mark.parametrize("count", [-1, 1.5, "2", True])
def test_a_review_is_of_a_number_of_masks(count: Any) -> None:
    with pytest.raises(InputError, match=r"count is .*; wanted a whole number"):
        result(tracked(0, 1, 0.5)).review(count)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_worth_nothing_and_the_first_to_review(bad: float) -> None:
    masks = [
        *(tracked(index, 1, c) for index, c in enumerate((0.9, 0.2, 0.9))),
        slice_mask(7, 1, 1.0, iou=bad, read=(0,)),
        slice_mask(9, 1, 1.0, score=bad, read=(0,)),
        slice_mask(7, 2, 1.0, iou=0.8, read=(0,)),
    ]
    found = of_depth(10, *masks)
    assert found.review(3) == [(7, 1, 0.0), (9, 1, 0.0), (1, 1, 0.2)]
    assert found.confidence[7] == found.confidence_of(1)[7] == found.confidence_of(1)[9] == 0


def lazy(logits: np.ndarray, calls: list[int]) -> LowResMask:
    def read() -> np.ndarray:
        calls.append(1)
        return logits

    return LowResMask(read)


def ring() -> np.ndarray:
    """Logits with a hole of one pixel, which is filled for everybody but the memory."""
    logits = columns(2, 7, 3.5)
    logits[4, 4] = -0.25
    return logits


def run_with_masks_still_to_be_read(calls: list[int]) -> Result:
    masks = {}
    for index in range(4):
        read = (0,) if index else ()
        segmented = Segmented(
            lazy(ring() - index / 2, calls),
            0.9,
            2.0,
            POINTER,
            read,
            (0.5,) * len(read),
            0.5 + index / 10,
        )
        masks[index] = SliceMask(index, 3, segmented, (13, 9))
    return Result(((13, 9),) * 5, {3: masks}, is_complete=False)


COPIES = {
    "pickle": lambda found: pickle.loads(pickle.dumps(found)),
    "old pickle": lambda found: pickle.loads(pickle.dumps(found, 2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_result_is_the_same(how: str) -> None:
    calls: list[int] = []
    found = run_with_masks_still_to_be_read(calls)
    copied = COPIES[how](found)
    if how != "copy":
        assert len(calls) == 4, "what was still to be read back is read for the copy"
        assert copied.slices[3][1].segmented.low_res is not found.slices[3][1].segmented.low_res
    assert_same(copied, found)
    assert len(calls) == 4


def assert_same(copied: Result, found: Result) -> None:
    for name in ("shapes", "object_ids", "is_complete", "is_ordered"):
        assert getattr(copied, name) == getattr(found, name)
    assert copied.review() == found.review()
    np.testing.assert_array_equal(copied.confidence, found.confidence)
    np.testing.assert_array_equal(copied.labels(), found.labels())
    np.testing.assert_array_equal(copied.mask(3), found.mask(3))
    for index, before in found.slices[3].items():
        after = copied.slices[3][index]
        np.testing.assert_array_equal(after.logits(), before.logits())
        np.testing.assert_array_equal(after.segmented.unfilled, before.segmented.unfilled)
        np.testing.assert_array_equal(after.segmented.obj_ptr, before.segmented.obj_ptr)
        assert after.confidence == before.confidence
        assert after.memory_frames == before.memory_frames
        assert after.memory_weights == before.memory_weights


def test_a_pickled_result_is_read_by_another_process(tmp_path: Path) -> None:
    found = run_with_masks_still_to_be_read([])
    (tmp_path / "result").write_bytes(pickle.dumps(found))
    code = (
        "import pickle, sys; found = pickle.load(open(sys.argv[1], 'rb'));"
        "print(int(found.labels().sum()), found.review())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "result")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == f"{int(found.labels().sum())} {found.review()}"


def test_a_copy_of_a_mask_that_cannot_be_read_can_be_tried_again() -> None:
    answers: list[Any] = [MemoryError("full"), ring()]

    def read() -> np.ndarray:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    mask = LowResMask(read)
    with pytest.raises(MemoryError):
        pickle.dumps(mask)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mask)).unfilled, ring())
