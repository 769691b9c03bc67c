"""What a slice costs, and what later slices read of earlier ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.training.sequence_loss import REACH, Memory, normalise, slice_loss
from kernels.preprocess import preprocess
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.memory.read import read
from runtime.memory.records import Record
from tests.fakes import FAKE_NUMBERS

SIDE = 32
NOTHING = torch.zeros(1, SIDE, SIDE)
SQUARE = torch.zeros(1, SIDE, SIDE)
SQUARE[:, 8:20, 8:20] = 1
HERE, GONE = torch.full((1, 1), 4.0), torch.full((1, 1), -4.0)


def square(side: int, level: float = 6.0) -> torch.Tensor:
    """Logits (1, 1, h, w) of a square that is drawn from a corner."""
    logits = torch.full((1, 1, SIDE, SIDE), -20.0)
    logits[..., :side, :side] = level
    return logits


def loss_of(masks: torch.Tensor, score: torch.Tensor, truth: torch.Tensor, iou: float) -> float:
    return float(slice_loss(masks, torch.full((1, masks.shape[1]), iou), score, truth)[0])


def test_the_loss_rewards_the_right_mask_and_the_right_score() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:20, 8:20] = 1
    right = torch.where(truth > 0, 6.0, -6.0)[:, None]
    ious, present = torch.ones(1, 1), torch.full((1, 1), 4.0)
    good, dice = slice_loss(right, ious, present, truth)
    bad, _ = slice_loss(-right, ious, present, truth)
    gone, _ = slice_loss(right, ious, -present, truth)
    assert good < 0.2 < bad and gone > good + 1
    assert dice[0, 0] == 1.0


def test_where_the_object_is_absent_an_empty_mask_costs_nothing_and_more_costs_more() -> None:
    losses = [loss_of(square(side), GONE, NOTHING, 0.0) for side in (0, 2, 4, 8, 16, 32)]
    assert losses == sorted(losses)
    assert all(b - a > 0.01 for a, b in pairwise(losses))
    score_only = torch.nn.functional.softplus(torch.tensor(-4.0)).item() * 2
    assert losses[0] == pytest.approx(score_only, abs=1e-3)


def test_where_the_object_is_absent_a_fainter_mask_costs_less() -> None:
    losses = [loss_of(square(8, level), GONE, NOTHING, 0.0) for level in (-9.0, -1.0, 1.0, 6.0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1] - 0.1


def test_where_the_object_is_absent_every_candidate_should_be_empty() -> None:
    empty, drawn = square(0), square(10)
    both = loss_of(torch.cat([empty, drawn], 1), GONE, NOTHING, 0.0)
    assert loss_of(torch.cat([empty, empty], 1), GONE, NOTHING, 0.0) < both
    assert both < loss_of(torch.cat([drawn, drawn], 1), GONE, NOTHING, 0.0)


def test_where_the_object_is_absent_a_mask_is_pushed_down_everywhere() -> None:
    logits = square(8).requires_grad_()
    slice_loss(logits, torch.zeros(1, 1), GONE, NOTHING)[0].backward()
    assert logits.grad is not None
    assert (logits.grad >= 0).all()
    assert (logits.grad[..., :8, :8] > 0).all()


def test_where_the_object_is_present_the_best_candidate_counts() -> None:
    right = torch.where(SQUARE > 0, 20.0, -20.0)[:, None]
    wrong = square(6)
    alone = loss_of(right, HERE, SQUARE, 1.0)
    ious = torch.tensor([[1.0, 0.0]])
    loss, dice = slice_loss(torch.cat([right, wrong], 1), ious, HERE, SQUARE)
    assert float(loss) == pytest.approx(alone, abs=1e-4)
    assert dice.tolist() == [[1.0, 0.0]]


def test_presence_and_absence_should_be_told() -> None:
    right = torch.where(SQUARE > 0, 20.0, -20.0)[:, None]
    assert loss_of(right, HERE, SQUARE, 1.0) < loss_of(right, GONE, SQUARE, 1.0) - 3
    assert loss_of(square(0), GONE, NOTHING, 0.0) < loss_of(square(0), HERE, NOTHING, 0.0) - 3


def test_the_predicted_overlap_should_be_the_true_one() -> None:
    half = torch.where(SQUARE > 0, 20.0, -20.0)[:, None].clone()
    half[:, :, 14:] = -20
    losses = {iou: loss_of(half, HERE, SQUARE, iou) for iou in (0.1, 0.4, 0.5, 0.6, 0.9)}
    assert min(losses, key=lambda iou: losses[iou]) == 0.5
    assert losses[0.9] - losses[0.5] == pytest.approx(0.4, abs=1e-5)


def test_objects_of_a_batch_count_alike() -> None:
    right = torch.where(SQUARE > 0, 20.0, -20.0)[:, None]
    masks = torch.cat([right, square(9)])
    both = slice_loss(
        masks, torch.tensor([[1.0], [0.0]]), torch.cat([HERE, GONE]), torch.cat([SQUARE, NOTHING])
    )[0]
    apart = loss_of(right, HERE, SQUARE, 1.0), loss_of(square(9), GONE, NOTHING, 0.0)
    assert float(both) == pytest.approx(sum(apart) / 2, abs=1e-5)


def past_of(steps: int, is_flow: list[bool]) -> Memory:
    """Memories and pointers that say which slice they are of."""
    rows = len(is_flow)
    shape = rows, FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim
    memories = [torch.full(shape, float(step)) for step in range(steps)]
    pointers = [torch.full((rows, FAKE_NUMBERS.d_model), float(step)) for step in range(steps)]
    return Memory(memories, pointers, torch.tensor(is_flow))


@pytest.mark.parametrize("step", [1, 2, 6, 7, 9])
def test_flows_have_no_temporal_code_and_no_distance_and_volumes_have(step: int) -> None:
    inputs = past_of(step, [False, True]).read(step, FAKE_NUMBERS)
    slots = inputs["memory"].shape[1]
    assert inputs["memory_time"].shape == (2, slots)
    assert inputs["memory_time"][1].tolist() == [FAKE_NUMBERS.no_time] * slots
    assert inputs["obj_ptr_pos"][1].tolist() == [0.0] * step
    assert FAKE_NUMBERS.no_time not in inputs["memory_time"][0].tolist()
    assert (inputs["obj_ptr_pos"][0] > 0).all()
    assert inputs["memory_weight"].tolist() == [[1.0] * slots] * 2
    assert inputs["obj_ptr_weight"].tolist() == [[1.0] * step] * 2
    assert inputs["memory_time"].dtype == torch.int64
    assert inputs["obj_ptr_pos"].dtype == torch.float32


@pytest.mark.parametrize("step", [1, 2, 6, 7, 9, 12])
def test_a_volumes_slice_reads_in_training_what_it_reads_at_run_time(step: int) -> None:
    inputs = past_of(step, [False]).read(step, FAKE_NUMBERS)
    tracked = [Record(i, i, 0.9, 5.0) for i in range(1, step)]
    prompted = [Record(0, 0, 0.9, 5.0, is_prompted=True)]
    wanted = read(prompted, prompted, tracked, tracked, step, 1, 100, FAKE_NUMBERS)
    memory = inputs["memory"][0, :, 0, 0].int().tolist()
    times = inputs["memory_time"][0].tolist()
    assert dict(zip(memory, times, strict=True)) == dict(
        zip(wanted.slots, wanted.times, strict=True)
    )
    pointers = inputs["obj_ptrs"][0, :, 0].int().tolist()
    positions = dict(zip(pointers, inputs["obj_ptr_pos"][0].tolist(), strict=True))
    assert positions == pytest.approx(
        dict(zip(wanted.ptr_slots, wanted.ptr_positions, strict=True))
    )
    assert FAKE_NUMBERS.max_obj_ptrs - 1 == REACH


def test_an_image_of_a_flow_reads_in_training_the_codes_of_run_time() -> None:
    inputs = past_of(4, [True]).read(4, FAKE_NUMBERS)
    tracked = [Record(i, i, 0.9, 5.0) for i in range(1, 4)]
    prompted = [Record(0, 0, 0.9, 5.0, is_prompted=True)]
    wanted = read(prompted, prompted, tracked, tracked, 4, 1, 100, FAKE_NUMBERS, clock="none")
    assert inputs["memory_time"][0].tolist() == list(wanted.times)
    assert inputs["obj_ptr_pos"][0].tolist() == list(wanted.ptr_positions)


def test_images_reach_the_encoder_as_at_run_time() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    wanted = preprocess(pixels, 64, PIXEL_MEAN, PIXEL_STD)
    np.testing.assert_allclose(normalise(torch.from_numpy(pixels)).numpy(), wanted, atol=1e-6)
