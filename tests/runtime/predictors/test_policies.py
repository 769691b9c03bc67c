"""What policies make of a volume with a bad slice in its middle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from runtime.bundle.confidence import MEASURES, Calibration
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.memory import MemoryRules
from runtime.memory.policies import POLICIES
from runtime.model import Model
from runtime.predictors import VolumePredictor
from runtime.predictors.result import Result
from runtime.prompts.prompts import Point
from tests.fakes import FAKE_NUMBERS, fake_model

DEPTH, NOISE, FAINT = 7, 3, 2
STEP = 30  # grey tells the slice
PIXELS = np.broadcast_to(
    STEP * np.arange(DEPTH, dtype=np.uint8)[:, None, None], (DEPTH, 40, 40)
).copy()

Inputs = Mapping[str, np.ndarray]


def encode(inputs: Inputs) -> Inputs:
    """Each slice has a channel of its own."""
    grey = 255 * (inputs["image"][:, 0, 0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0])
    features = np.zeros((len(grey), FAKE_NUMBERS.d_model, 1, 1), np.float32)
    features[np.arange(len(grey)), np.rint(grey / STEP).astype(int)] = 1
    return {
        "vision_features": features,
        "attended_features": features[..., 0].swapaxes(1, 2),
        "projected_features": features,
    }


def condition(inputs: Inputs) -> Inputs:
    return {"conditioned_features": inputs["attended_features"][:, 0, :, None, None]}


def decode(inputs: Inputs) -> Inputs:
    """On `NOISE` the network says that it is unsure; on `FAINT` the pixels say so."""
    slices = inputs["features"][:, :, 0, 0].argmax(1)
    side = FAKE_NUMBERS.low_res
    masks = np.full((len(slices), 1, side, side), -4.0, np.float32)
    masks[..., 4:12, 4:12] = np.where(slices == FAINT, 0.1, 4.0)[:, None, None, None]
    return {"low_res_masks": masks, "ious": np.where(slices == NOISE, 0.1, 0.9)}


def memorise(inputs: Inputs) -> Inputs:
    """The slice's channel becomes a token."""
    channels = inputs["projected_features"][:, :, 0, 0]
    memory = np.zeros((len(channels), FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim), np.float32)
    memory[:, : channels.shape[1], 0] = channels
    return {"memory": memory}


ANSWERS = {
    "image_encoder": encode,
    "memory_attention": condition,
    "mask_decoder": decode,
    "memory_encoder": memorise,
}


def propagated(
    rules: MemoryRules, prompted: int, calibrations: Mapping[str, Calibration] | None = None
) -> Result:
    made, backend = fake_model(ANSWERS)
    predictor = VolumePredictor(Model(made.numbers, backend, made.constants, calibrations), rules)
    predictor.set_volume(PIXELS, "none")
    predictor.add(Point(slice=prompted, y=20, x=20))
    return predictor.propagate()


def frames_in_memory(result: Result) -> dict[int, set[int]]:
    return {index: set(mask.memory_frames) for index, mask in result.slices[1].items()}


def all_before(prompted: int, without: set[int]) -> dict[int, set[int]]:
    """Each slice's memory where all that comes before it but some is remembered."""
    ways = range(prompted + 1, DEPTH), range(prompted - 1, -1, -1)
    known: dict[int, set[int]] = {prompted: set()}
    for way in ways:
        for index in way:
            between = range(min(index, prompted) + 1, max(index, prompted))
            known[index] = {prompted, *between} - without
    return known


@pytest.mark.parametrize("prompted", [0, 6, 4])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_slice_of_noise_stays_out_of_a_gated_memory_and_of_no_other(
    policy: str, prompted: int
) -> None:
    result = propagated(MemoryRules(policy=policy), prompted)
    assert result.confidence_of(1)[NOISE] == pytest.approx(0.1)
    without = set() if policy in ("fifo", "self_sorting_released") else {NOISE}
    assert frames_in_memory(result) == all_before(prompted, without)
    assert any(NOISE in frames for frames in frames_in_memory(result).values()) != bool(without)


@pytest.mark.parametrize(("confidence", "kept_out"), [("iou", NOISE), ("foreground", FAINT)])
@pytest.mark.parametrize("policy", ["confidence", "self_sorting"])
def test_the_measure_chosen_decides_what_stays_out(
    policy: str, confidence: str, kept_out: int
) -> None:
    rules = MemoryRules(policy=policy, confidence=confidence, min_confidence=0.6)
    result = propagated(rules, prompted=0)
    assert frames_in_memory(result) == all_before(0, {kept_out})
    seen = result.confidence_of(1)
    assert seen[kept_out] < 0.6
    assert (np.delete(seen, kept_out) > 0.6).all()


def test_what_a_measure_is_worth_decides_and_not_the_measure_itself() -> None:
    rules = MemoryRules(policy="confidence", confidence="foreground", min_confidence=0.6)
    tenth = {"foreground": Calibration(knots=((0.0, 1.0), (0.0, 0.1)))}
    result = propagated(rules, 0, tenth)
    assert frames_in_memory(result) == all_before(0, set(range(1, DEPTH)))
    of_a_logit_of_four = 1 / (1 + np.exp(-4))
    assert result.confidence_of(1)[5] == pytest.approx(0.1 * of_a_logit_of_four)
    of_another_measure = {"iou": Calibration(knots=((0.0, 1.0), (0.0, 0.1)))}
    assert frames_in_memory(propagated(rules, 0, of_another_measure)) == all_before(0, {FAINT})


def test_a_prompted_slice_of_noise_is_remembered_all_the_same() -> None:
    for policy in POLICIES:
        frames = frames_in_memory(propagated(MemoryRules(policy=policy), prompted=NOISE))
        assert frames == all_before(NOISE, set())


@pytest.mark.parametrize("pick_up", ["all", "weighted"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_slice_whose_confidence_is_no_number_never_enters_memory(
    policy: str, pick_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "foreground", lambda logits, iou: iou if iou > 0.5 else np.nan)
    model, _ = fake_model(ANSWERS)
    rules = MemoryRules(policy=policy, pick_up=pick_up, min_confidence=0.0, confidence="foreground")
    predictor = VolumePredictor(model, rules)
    predictor.set_volume(PIXELS)
    predictor.add(Point(slice=0, y=20, x=20))
    result = predictor.propagate()
    assert NOISE - 1 in result.slices[1][NOISE + 1].memory_frames
    assert all(NOISE not in mask.memory_frames for mask in result.slices[1].values())
    assert result.review(1) == [(NOISE, 1, 0.0)]
    predictor.reset()
    arena = predictor._tracker._arena
    assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0
