"""Figures by hand, on cases small enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.judge import (
    AFTER,
    Setting,
    judge,
    mean_dice,
    near,
    segment,
    summarise,
)
from export.damage import DAMAGED_AT, noise
from export.labelled import Case
from runtime import Box, Mask, MemoryRules, Volume
from runtime.memory.policies import POLICIES
from runtime.predictors.result import Result, SliceMask
from runtime.track import Segmented
from tests.fakes import TELLING, fake_model


def make_case(truth: np.ndarray, key: int, is_flow: bool = False) -> Case:
    volume = Volume.from_array(np.zeros(truth.shape, np.uint8), (3.0, 1.0, 1.0))
    return Case("made", volume, truth, key, is_flow)


def result_of(found: np.ndarray, memory: dict[int, tuple[int, ...]] | None = None) -> Result:
    slices = {}
    for index, plane in enumerate(found):
        frames = (memory or {}).get(index, ())
        logits = np.where(plane, 3, -3).astype(np.float32)
        segmented = Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32), frames)
        slices[index] = SliceMask(index, 1, segmented, plane.shape)
    return Result((found.shape[1:],) * len(found), {1: slices})


def bars(lengths: list[int]) -> np.ndarray:
    """One row of so many voxels in each slice."""
    mask = np.zeros((len(lengths), 5, 8), bool)
    for plane, length in zip(mask, lengths, strict=True):
        plane[2, :length] = True
    return mask


def test_figures_of_a_case_by_hand() -> None:
    truth = bars([0, 2, 4, 4, 2, 0])
    found = bars([2, 2, 4, 2, 0, 0])
    figures = judge(make_case(truth, 2), Setting("a way", "click"), result_of(found), [])
    assert figures.pop("by_distance") == pytest.approx({1: (1 + 2 / 3) / 2, 2: 0.0})
    assert figures.pop("case") == "made"
    assert (figures.pop("setting"), figures.pop("prompt")) == ("a way", "click")
    assert figures.pop("is_flow") is False
    assert figures == pytest.approx(
        {
            "dice": 2 * 8 / (12 + 10),
            "iou": 8 / 14,
            "hd95_mm": 3.0,  # two of ten found voxels are a slice away, and two of twelve true ones
            "nsd": 18 / 22,
            "dice_where_present": 2 * 8 / (12 + 8),
            "prompted_slice": 1.0,
            "other_slices": (1 + 2 / 3 + 0) / 3,
            "copy_of_mask": (2 / 3 + 1 + 2 / 3) / 3,
            "drawn_where_absent": 1 / 2,
            "lost_where_present": 1 / 4,
            "tracked_slices": 0.0,  # masks that were made by hand have read no memory
        }
    )


def test_a_perfect_answer_has_perfect_figures() -> None:
    truth = bars([0, 2, 4, 4, 2, 0])
    figures = judge(make_case(truth, 2), Setting("all"), result_of(truth), [])
    for name in ("dice", "iou", "nsd", "dice_where_present", "prompted_slice", "other_slices"):
        assert figures[name] == 1.0, name
    assert figures["hd95_mm"] == figures["drawn_where_absent"] == 0.0
    assert figures["lost_where_present"] == 0.0
    assert figures["copy_of_mask"] < 1.0


def test_what_does_not_exist_is_not_a_number() -> None:
    everywhere = bars([2, 3, 2])
    figures = judge(make_case(everywhere, 1), Setting("all"), result_of(everywhere), [])
    assert np.isnan(figures["drawn_where_absent"])
    assert list(figures["by_distance"]) == [1]
    lost = judge(make_case(everywhere, 1), Setting("all"), result_of(bars([0, 0, 0])), [])
    assert np.isnan(lost["hd95_mm"])
    assert (lost["dice"], lost["lost_where_present"]) == (0.0, 1.0)
    alone = judge(make_case(bars([0, 3, 0]), 1), Setting("all"), result_of(bars([0, 3, 0])), [])
    assert np.isnan(alone["other_slices"])
    assert alone["by_distance"] == {}


def test_a_slice_at_each_end_is_near() -> None:
    present = np.array([True, True, True, False, True])
    assert near(2, 1) == [1, 3]
    assert near(2, 1, present) == [1]
    assert near(2, 2, present) == [0, 4]
    assert near(2, 3, present) == []
    assert near(0, 2, present) == [2]


def test_means_of_dice_by_hand() -> None:
    truth, found = bars([0, 2, 4]), bars([0, 1, 4])
    assert mean_dice(found, truth, [0, 1, 2]) == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert np.isnan(mean_dice(found, truth, []))


@pytest.mark.parametrize(
    ("key", "slices"), [(4, [1, 7]), (2, [5]), (8, [5]), (3, [0, 6]), (5, [2, 8])]
)
def test_noise_drowns_the_right_slices_and_no_others(key: int, slices: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (9, 40, 40), dtype=np.uint8)
    before = pixels.copy()
    truth = np.zeros(pixels.shape, bool)
    ruined, which = noise(make_case(truth, key), pixels)
    np.testing.assert_array_equal(pixels, before)
    assert which == slices
    assert ruined.dtype == np.uint8
    for index in range(len(pixels)):
        change = np.abs(ruined[index].astype(int) - pixels[index])
        assert change.mean() > 40 if index in slices else not change.any()
    again, _ = noise(make_case(truth, key), pixels)
    np.testing.assert_array_equal(again, ruined)


def test_how_often_a_ruined_slice_was_in_memory_by_hand() -> None:
    key, length = 8, 20
    truth = bars([4] * 18 + [0, 0])
    found = truth.copy()
    found[[5, 12, 13]] = False
    ruined = [key - DAMAGED_AT, key + DAMAGED_AT]
    # Slices 4 to 0 and 12 to 17 come after a ruined one; three of these eleven have read one.
    memory = {i: (key,) for i in range(length) if i != key}
    memory |= {4: (8, 7, 6, 5), 12: (8, 11), 17: (8, 11, 12), 6: (8, 5), 18: (8, 11)}
    figures = judge(make_case(truth, key), Setting("r"), result_of(found, memory), ruined)
    assert figures["ruined_in_memory"] == pytest.approx(3 / 11)
    assert figures["ruined_slices"] == pytest.approx(1 / 2)
    assert figures["after_ruined"] == pytest.approx(9 / 11)
    plain = judge(make_case(truth, key), Setting("p"), result_of(found, memory), [])
    assert not {"ruined_in_memory", "ruined_slices", "after_ruined"} & set(plain)


def test_without_slices_after_a_ruined_one_there_is_nothing_to_tell() -> None:
    truth = bars([4] * 4)
    figures = judge(make_case(truth, 0), Setting("r"), result_of(truth), [3])
    assert np.isnan(figures["ruined_in_memory"])
    assert np.isnan(figures["after_ruined"])
    assert figures["ruined_slices"] == 1.0


def test_what_comes_after_is_as_far_as_the_memory_of_fifo_reaches() -> None:
    """Right behind the ruined slice up to where it is the oldest of six."""
    model, _ = fake_model(TELLING)
    pixels = np.random.default_rng(1).integers(0, 256, (14, 16, 16), dtype=np.uint8)
    truth = np.zeros(pixels.shape, bool)
    truth[:, 4:12, 4:12] = True
    result = segment(model, make_case(truth, 0), pixels, Setting("plain"))
    held = [i for i, m in result.slices[1].items() if DAMAGED_AT in m.memory_frames]
    assert held == list(AFTER)


PIXELS = np.random.default_rng(2).integers(0, 256, (6, 24, 24), dtype=np.uint8)
TRUTH = np.zeros(PIXELS.shape, bool)
TRUTH[1:5, 6:18, 8:20] = True


@pytest.mark.parametrize("kind", ["box", "mask", "click"])
@pytest.mark.parametrize("is_flow", [False, True])
def test_the_same_prompt_on_every_slice_uses_no_memory(kind: str, is_flow: bool) -> None:
    model, backend = fake_model(TELLING)
    case = make_case(TRUTH, 3, is_flow)
    result = segment(model, case, PIXELS, Setting("again and again", kind, rules=None))
    asked = [call.graph for call in backend.calls]
    assert asked.count("mask_decoder") == len(PIXELS)
    assert set(asked) == {"image_encoder", "mask_decoder"}
    prompts = [c.inputs for c in backend.calls if c.graph == "mask_decoder"]
    for each in prompts:
        for name in ("point_coords", "point_labels", "mask_input"):
            np.testing.assert_array_equal(each[name], prompts[0][name])
    assert sorted(result.slices[1]) == list(range(len(PIXELS)))
    assert not any(m.memory_frames for m in result.slices[1].values())
    assert result.is_ordered is not is_flow


@pytest.mark.parametrize("policy", POLICIES)
def test_a_case_is_segmented_from_its_prompt_by_the_rules_asked_for(policy: str) -> None:
    model, _ = fake_model(TELLING)
    rules = MemoryRules(policy=policy, min_confidence=0.0)
    result = segment(model, make_case(TRUTH, 3), PIXELS, Setting("one", rules=rules))
    masks = result.slices[1]
    assert sorted(masks) == list(range(len(PIXELS)))
    assert [i for i, m in masks.items() if not m.memory_frames] == [3]
    assert masks[4].memory_frames == (3,), "directions do not see each other"


def test_a_flow_is_segmented_without_order() -> None:
    model, _ = fake_model(TELLING)
    case = make_case(TRUTH, 3, is_flow=True)
    result = segment(model, case, PIXELS, Setting("flow"))
    assert not result.is_ordered
    assert result.slices[1][4].memory_frames == (3, 0, 1, 2)


def test_a_summary_means_over_what_exists() -> None:
    truth = bars([0, 2, 4, 4, 2, 0])
    good = judge(make_case(truth, 2), Setting("a"), result_of(truth), [])
    lost = judge(make_case(truth, 2), Setting("a"), result_of(bars([0] * 6)), [])
    other = judge(make_case(truth, 2), Setting("b"), result_of(truth), [])
    flow = judge(make_case(truth, 2, is_flow=True), Setting("a"), result_of(truth), [])
    summary = summarise([good, lost, other, flow])
    assert list(summary) == ["volumes", "flows"]
    assert list(summary["volumes"]) == ["a", "b"]
    a = summary["volumes"]["a"]
    assert (a["cases"], a["dice"], a["lost_where_present"]) == (2, 0.5, 0.5)
    assert a["hd95_mm"] == 0.0, "of the one that has a distance"
    assert a["by_distance"] == {1: 0.5, 2: 0.5, 4: None, 8: None, 16: None}
    assert summary["volumes"]["b"]["cases"] == summary["flows"]["a"]["cases"] == 1


def test_box_and_mask_are_what_is_prompted_with() -> None:
    model, backend = fake_model(TELLING)
    for kind in (Box, Mask):
        backend.calls.clear()
        segment(model, make_case(TRUTH, 3), PIXELS, Setting("x", kind.__name__.lower()))
        (first, *_) = [c.inputs for c in backend.calls if c.graph == "mask_decoder"]
        assert first["has_mask_input"].item() is (kind is Mask)
