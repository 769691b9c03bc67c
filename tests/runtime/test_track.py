"""What one step asks of which graph, by the record of the fake back end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from runtime.bundle.contract import LABEL_PAD, MASK_PROMPT_LOGIT, PREVIOUS_LOGIT_LIMIT
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules
from runtime.memory.arena import Arena
from runtime.model import Model
from runtime.prompts.prompts import Box, Point, to_mask, to_points
from runtime.steps.features import FeatureCache
from runtime.track import (
    BatchRow,
    Segmented,
    memorise_prompted,
    segment_mask,
    segment_points,
    track_step,
)
from tests.fake_backend import Call, FakeBackend
from tests.fakes import FAKE_NUMBERS, fake_model

LOW = FAKE_NUMBERS.low_res
CONDITIONED = 1000.0  # added to features that passed memory attention
ATTENDED, PROJECTED = 100.0, 200.0
HOLE = (7, 7)

Inputs = Mapping[str, np.ndarray]


def logits_with_a_hole(level: float = 4.0) -> np.ndarray:
    logits = np.full((LOW, LOW), -level, np.float32)
    logits[4:12, 4:12] = level
    logits[HOLE] = -1.0
    return logits


def encode(inputs: Inputs) -> Inputs:
    level = inputs["image"][:, :1, :1, :1]
    return {
        "vision_features": level,
        "attended_features": level[..., 0] + ATTENDED,
        "projected_features": level + PROJECTED,
    }


def condition(inputs: Inputs) -> Inputs:
    level = inputs["attended_features"][:, :1, :1, None] - ATTENDED
    return {"conditioned_features": level + CONDITIONED}


def decode(inputs: Inputs) -> Inputs:
    rows = np.arange(len(inputs["features"]), dtype=np.float32)
    return {
        "low_res_masks": logits_with_a_hole(),
        "ious": 0.5 + 0.1 * rows,
        "object_score_logits": 2.0 - 3.0 * rows,  # the second row's object is absent
        "obj_ptr": 10.0 + rows[:, None],
    }


def memorise(inputs: Inputs) -> Inputs:
    return {"memory": 20.0 + np.arange(len(inputs["low_res_masks"]))[:, None, None]}


ANSWERS = {
    "image_encoder": encode,
    "memory_attention": condition,
    "mask_decoder": decode,
    "memory_encoder": memorise,
}


@dataclass
class Stage:
    """One object prompted on slice 2, with a chain in each direction."""

    model: Model
    backend: FakeBackend
    arena: Arena
    features: FeatureCache
    rows: list[BatchRow] = field(default_factory=list)

    def step(self) -> tuple[list[Segmented], dict[str, Call]]:
        """The results, and the call of each graph apart from the encoder."""
        found = track_step(self.model, self.arena, self.features, self.rows)
        calls = [call for call in self.backend.calls if call.graph != "image_encoder"]
        assert [call.graph for call in calls] == [
            "memory_attention",
            "mask_decoder",
            "memory_encoder",
        ], "each graph runs once, whatever the number of rows"
        return found, {call.graph: call for call in calls}


def make_stage(rules: MemoryRules) -> Stage:
    model, backend = fake_model(ANSWERS)
    numbers = model.numbers
    arena = model.arena()
    features = FeatureCache(model, lambda index: np.full((30, 30), 40 * index, np.uint8))
    conditioning = ConditioningFrames(arena, rules)
    memory = np.full((numbers.num_tokens, numbers.mem_dim), 3.0, np.float32)
    pointer = np.full(numbers.d_model, 4.0, np.float32)
    conditioning.add(2, features[2].vision_features, memory, pointer, 0.9, 5.0)
    stage = Stage(model, backend, arena, features)
    for direction, frame in ((1, 3), (-1, 1)):
        bank = MemoryBank(arena, conditioning, direction, 5, numbers, rules)
        stage.rows.append(BatchRow(bank, frame))
    return stage


@pytest.fixture
def stage() -> Stage:
    return make_stage(MemoryRules())


def of_rows(stage: Stage, part: str = "vision_features") -> np.ndarray:
    return np.concatenate([getattr(stage.features[row.frame], part) for row in stage.rows])


def test_memory_attention_gets_each_rows_own_slice_and_memory(stage: Stage) -> None:
    _, calls = stage.step()
    inputs = calls["memory_attention"].inputs
    attended = of_rows(stage, "attended_features")
    np.testing.assert_array_equal(inputs["attended_features"], attended)
    assert attended[0, 0, 0] != attended[1, 0, 0]
    assert (inputs["memory"] == 3.0).all()
    assert (inputs["obj_ptrs"] == 4.0).all()
    np.testing.assert_array_equal(inputs["obj_ptr_pos"], [[1 / 4], [1 / 4]])


def test_the_decoder_gets_conditioned_features_without_the_no_memory_embedding(
    stage: Stage,
) -> None:
    _, calls = stage.step()
    inputs = calls["mask_decoder"].inputs
    np.testing.assert_allclose(inputs["features"], of_rows(stage) + CONDITIONED, rtol=1e-5)
    assert not inputs["add_no_mem_embed"].any()
    assert not inputs["has_mask_input"].any()
    assert inputs["multimask"].all()
    np.testing.assert_array_equal(inputs["point_labels"], [[LABEL_PAD]] * 2)


def test_the_memory_encoder_gets_raw_features_and_logits_whose_holes_are_not_filled(
    stage: Stage,
) -> None:
    _, calls = stage.step()
    inputs = calls["memory_encoder"].inputs
    np.testing.assert_array_equal(
        inputs["projected_features"], of_rows(stage, "projected_features")
    )
    for masks in inputs["low_res_masks"]:
        np.testing.assert_array_equal(masks[0], logits_with_a_hole())
    np.testing.assert_array_equal(inputs["object_score_logits"], [2.0, -1.0])
    assert not inputs["binarize"].any()


def test_holes_are_filled_in_what_is_handed_out(stage: Stage) -> None:
    found, _ = stage.step()
    for segmented in found:
        assert segmented.logits[HOLE] > 0
        filled = logits_with_a_hole()
        filled[HOLE] = segmented.logits[HOLE]
        np.testing.assert_array_equal(segmented.logits, filled)


def test_each_row_has_its_own_scores_and_an_absent_object_has_no_confidence(stage: Stage) -> None:
    found, _ = stage.step()
    assert [segmented.iou for segmented in found] == pytest.approx([0.5, 0.6])
    assert [segmented.object_score for segmented in found] == [2.0, -1.0]
    assert [segmented.confidence for segmented in found] == pytest.approx([0.5, 0.0])
    assert [segmented.obj_ptr[0] for segmented in found] == [10.0, 11.0]
    assert [segmented.memory_frames for segmented in found] == [(2,), (2,)]


def test_each_chain_remembers_its_own_result(stage: Stage) -> None:
    stage.step()
    for i, (row, slice_number) in enumerate(zip(stage.rows, (3, 1), strict=True)):
        (record,) = row.bank.memories
        (pointer,) = row.bank.pointers
        assert record.frame == pointer.frame == slice_number
        assert (stage.arena.memories.values[record.slot] == 20.0 + i).all()
        assert (stage.arena.pointers.values[pointer.slot] == 10.0 + i).all()
        assert record.confidence == pytest.approx([0.5, 0.0][i])
        assert record.object_score == [2.0, -1.0][i]


def test_where_images_are_compared_each_chain_remembers_its_slices_raw_features() -> None:
    stage = make_stage(MemoryRules(pick_up="weighted"))
    stage.step()
    for row, raw in zip(stage.rows, of_rows(stage), strict=True):
        (record,) = row.bank.memories
        np.testing.assert_array_equal(stage.arena.embeddings.values[record.embedding], raw.ravel())


def test_a_row_on_its_own_gets_what_it_gets_in_a_batch(stage: Stage) -> None:
    stage.rows.pop()
    found, calls = stage.step()
    assert len(found) == 1
    np.testing.assert_array_equal(
        calls["memory_attention"].inputs["attended_features"], of_rows(stage, "attended_features")
    )


def prompted(
    prompts: list[Point | Box], previous: Segmented | None = None
) -> tuple[Segmented, Call]:
    model, backend = fake_model(ANSWERS)
    features = FeatureCache(model, lambda index: np.full((30, 30), 40, np.uint8))[0]
    found = segment_points(model, features, to_points(prompts, (30, 30), 64), previous)
    encoder, call = backend.calls
    assert (encoder.graph, call.graph) == ("image_encoder", "mask_decoder")
    np.testing.assert_array_equal(call.inputs["features"], features.vision_features)
    return found, call


def test_a_prompted_slice_is_decoded_from_raw_features_with_the_no_memory_embedding() -> None:
    found, call = prompted([Point(y=3, x=6)])
    assert call.inputs["add_no_mem_embed"].all()
    assert call.inputs["multimask"].all()
    assert not call.inputs["has_mask_input"].any()
    np.testing.assert_allclose(call.inputs["point_coords"], [[[6 / 30 * 64, 3 / 30 * 64]]])
    assert found.logits[HOLE] > 0
    assert found.confidence == pytest.approx(0.5)
    assert found.memory_frames == ()


def test_a_correction_feeds_back_the_logits_before_it_clamped() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 40, (LOW, LOW)).astype(np.float32)
    assert np.abs(logits).max() > PREVIOUS_LOGIT_LIMIT
    previous = Segmented(logits, 0.9, 5.0, np.zeros(FAKE_NUMBERS.d_model, np.float32))
    _, call = prompted([Point(y=3, x=6), Point(y=4, x=7)], previous)
    assert call.inputs["has_mask_input"].all()
    assert not call.inputs["multimask"].any()
    limit = PREVIOUS_LOGIT_LIMIT
    np.testing.assert_array_equal(call.inputs["mask_input"][0, 0], np.clip(logits, -limit, limit))


def masked(mask: np.ndarray) -> tuple[Model, FakeBackend, Segmented]:
    model, backend = fake_model(ANSWERS)
    features = FeatureCache(model, lambda index: np.full((30, 30), 40, np.uint8))[0]
    constants = model.constants
    weight, bias = constants["mask_downsample_weight"], constants["mask_downsample_bias"]
    found = segment_mask(model, features, to_mask(mask, 64, weight, bias))
    return model, backend, found


def test_a_mask_prompt_is_the_result_and_the_decoder_gives_its_pointer_alone() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    mask[28:36, 28:36] = False
    _, backend, found = masked(mask)
    _, call = backend.calls
    assert call.graph == "mask_decoder"
    assert call.inputs["has_mask_input"].all()
    dense = call.inputs["mask_input"][0, 0]
    np.testing.assert_allclose(dense[7, 3:13], [0, 1, 1, 1, 0, 0, 1, 1, 1, 0])
    assert not call.inputs["multimask"].any()
    assert not call.inputs["add_no_mem_embed"].any()
    np.testing.assert_array_equal(call.inputs["point_labels"], [[LABEL_PAD]])
    assert (found.obj_ptr == 10.0).all()
    assert (found.iou, found.object_score) == (1.0, MASK_PROMPT_LOGIT)
    assert (found.logits[4:12, 4:12] > 0).all(), "its holes are filled like any other's"


def test_an_empty_mask_runs_no_graph_and_has_the_pointer_of_no_object() -> None:
    model, backend, found = masked(np.zeros((64, 64), bool))
    assert [call.graph for call in backend.calls] == ["image_encoder"]
    np.testing.assert_array_equal(found.obj_ptr, model.constants["no_obj_ptr"])
    assert found.object_score == -MASK_PROMPT_LOGIT
    assert found.confidence == 0.0
    assert (found.logits < 0).all()


def test_a_prompted_slice_is_remembered_by_its_filled_binarised_mask() -> None:
    model, backend = fake_model(ANSWERS)
    features = FeatureCache(model, lambda index: np.full((30, 30), 40, np.uint8))[0]
    segmented = segment_points(model, features, to_points([Point(y=1, x=1)], (30, 30), 64), None)
    memory = memorise_prompted(model, features, segmented)
    assert memory.shape == (FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim)
    call = backend.calls[-1]
    assert call.graph == "memory_encoder"
    np.testing.assert_array_equal(call.inputs["low_res_masks"][0, 0], segmented.logits)
    np.testing.assert_array_equal(call.inputs["projected_features"], features.projected_features)
    np.testing.assert_array_equal(call.inputs["object_score_logits"], [2.0])
    assert call.inputs["binarize"].all()
