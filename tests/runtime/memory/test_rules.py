from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from math import nan
from typing import Any

import pytest

from runtime.bundle.confidence import MEASURES
from runtime.errors import InputError
from runtime.memory import MemoryRules
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import MAX_SIMILARITY, MIN_CONFIDENCE, POLICIES, PolicyLimits
from runtime.predictors import FlowPredictor, VideoPredictor, VolumePredictor
from tests.fakes import FAKE_NUMBERS, fake_model


def test_without_a_word_memory_is_that_of_sam_2() -> None:
    rules = MemoryRules()
    assert (rules.policy, rules.pick_up, rules.confidence, rules.seed) == ("fifo", "all", "iou", 0)
    assert rules.capacity is None
    assert (rules.min_confidence, rules.max_similarity) == (MIN_CONFIDENCE, MAX_SIMILARITY)
    assert rules.limits(FAKE_NUMBERS).capacity == 6
    assert rules.row.is_recency
    assert not rules.compares_images


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"policy": "lifo"}, r"no memory policy 'lifo'; there are: .*"),
        ({"pick_up": "some"}, r"no pick-up 'some'; there are: .*"),
        ({"confidence": "mood"}, r"no measure of confidence 'mood'; there are: .*"),
        ({"capacity": 0}, r"capacity 0 holds nothing; wanted 1 or more"),
        ({"capacity": -3}, r"capacity -3 holds nothing; wanted 1 or more"),
        ({"min_confidence": 1.5}, r"min_confidence 1\.5 is not within 0 to 1"),
        ({"min_confidence": -0.25}, r"min_confidence -0\.25 is not within 0 to 1"),
        ({"min_confidence": nan}, r"min_confidence nan is not within 0 to 1"),
        ({"max_similarity": 1.5}, r"max_similarity 1\.5 is no cosine, -1 to 1"),
        ({"max_similarity": -1.25}, r"max_similarity -1\.25 is no cosine, -1 to 1"),
        ({"max_similarity": nan}, r"max_similarity nan is no cosine, -1 to 1"),
        ({"min_similarity": 1.5}, r"min_similarity 1\.5 is no cosine, -1 to 1"),
        ({"min_similarity": nan}, r"min_similarity nan is no cosine, -1 to 1"),
        ({"seed": -1}, r"seed -1 is below zero; wanted 0 or more"),
    ],
)
def test_what_is_out_of_range_is_refused_with_what_there_is(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        MemoryRules(**parameters)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("what", "table"), [("policy", POLICIES), ("pick_up", PICK_UPS), ("confidence", MEASURES)]
)
def test_an_unknown_name_is_answered_with_all_there_are(what: str, table: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        MemoryRules(**{what: "unheard of"})
    assert str(refused.value).endswith("there are: " + ", ".join(table))
    for name in table:
        assert getattr(MemoryRules(**{what: name}), what) == name


@pytest.mark.parametrize(
    "parameters",
    [
        {"capacity": 1},
        {"min_confidence": 0.0},
        {"min_confidence": 1.0},
        {"max_similarity": -1.0},
        {"max_similarity": 1.0},
        {"min_similarity": -1.0},
        {"min_similarity": 1.0},
        {"seed": 0},
    ],
)
def test_the_ends_of_a_range_belong_to_it(parameters: dict[str, Any]) -> None:
    assert MemoryRules(**parameters) == replace(MemoryRules(), **parameters)


def test_rules_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        MemoryRules().capacity = 3


@pytest.mark.parametrize(
    ("policy", "images"),
    [
        ("fifo", False),
        ("confidence", True),
        ("self_sorting", False),
        ("self_sorting_released", False),
    ],
)
def test_images_are_compared_by_confidence_and_by_whoever_picks_up(
    policy: str, images: bool
) -> None:
    assert MemoryRules(policy=policy).compares_images == images
    for pick_up in ("weighted", "resample"):
        assert MemoryRules(policy=policy, pick_up=pick_up).compares_images


@pytest.mark.parametrize(
    ("policy", "capacity"),
    [
        ("fifo", 6),
        ("confidence", 6),
        ("self_sorting", 6),
        ("self_sorting_released", 16),
        ("confident_and_latest", 6),
        ("self_sorting_and_latest", 6),
    ],
)
def test_each_policy_has_its_own_capacity_unless_one_is_given(policy: str, capacity: int) -> None:
    assert MemoryRules(policy=policy).limits(FAKE_NUMBERS).capacity == capacity
    rules = MemoryRules(
        policy=policy, capacity=2, min_confidence=0.25, max_similarity=0.5, min_similarity=0.25
    )
    assert rules.limits(FAKE_NUMBERS) == PolicyLimits(2, 0.25, 0.5, 0.25)


def test_capacity_follows_the_model() -> None:
    small = replace(FAKE_NUMBERS, num_maskmem=4)
    for policy in ("fifo", "confidence", "self_sorting"):
        assert MemoryRules(policy=policy).limits(small).capacity == 3
    assert MemoryRules(policy="self_sorting_released").limits(small).capacity == 16


def test_only_recency_is_bound_by_the_temporal_codes() -> None:
    assert MemoryRules(capacity=6).limits(FAKE_NUMBERS).capacity == 6
    with pytest.raises(InputError, match="fifo has temporal codes for 6 tracked frames") as refused:
        MemoryRules(capacity=7).limits(FAKE_NUMBERS)
    assert "found capacity 7" in str(refused.value)
    assert "another policy" in str(refused.value)
    for policy in ("confidence", "self_sorting", "self_sorting_released"):
        assert MemoryRules(policy=policy, capacity=40).limits(FAKE_NUMBERS).capacity == 40


@pytest.mark.parametrize("predictor", [VolumePredictor, FlowPredictor, VideoPredictor])
def test_a_predictor_refuses_a_memory_beyond_its_model_at_once(predictor: Any) -> None:
    model, backend = fake_model()
    with pytest.raises(InputError, match="found capacity 7"):
        predictor(model, MemoryRules(capacity=7))
    assert backend.calls == []
