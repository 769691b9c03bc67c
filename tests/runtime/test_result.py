from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.result import MAX_OBJECT_ID, Result, SliceMask
from runtime.track import Segmented

SIDE = 8
SHAPE = (4, SIDE, SIDE)
POINTER = np.zeros(2, np.float32)


def slice_mask(
    index: int, object_id: int, logits: np.ndarray | float, iou: float = 0.8, score: float = 1.0
) -> SliceMask:
    full = np.broadcast_to(np.asarray(logits, np.float32), (SIDE, SIDE))
    return SliceMask(index, object_id, Segmented(full, iou, score, POINTER), (SIDE, SIDE))


def result(*masks: SliceMask) -> Result:
    slices: dict[int, dict[int, SliceMask]] = {}
    for mask in masks:
        slices.setdefault(mask.object_id, {})[mask.slice] = mask
    return Result((SHAPE[1:],) * SHAPE[0], slices)


def columns(start: int, stop: int, level: float) -> np.ndarray:
    """Logits above zero in some columns."""
    logits = np.full((SIDE, SIDE), -1.0, np.float32)
    logits[:, start:stop] = level
    return logits


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


@pytest.mark.parametrize("ask", [Result.mask, Result.confidence_of])
def test_an_unknown_object_is_named_beside_those_there_are(ask) -> None:
    with pytest.raises(InputError, match=r"no object 5; there are: \[1, 2\]"):
        ask(result(slice_mask(0, 2, 1.0), slice_mask(0, 1, 1.0)), 5)
