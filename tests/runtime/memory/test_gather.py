from __future__ import annotations

import numpy as np
import pytest

from kernels.bfloat16 import round_to_bfloat16
from runtime.bundle.contract import graph_specs
from runtime.memory.arena import Arena
from runtime.memory.batch import pack
from runtime.memory.records import MemoryRead, TargetSlots
from tests.fakes import FAKE_NUMBERS


@pytest.fixture
def arena() -> Arena:
    """Slot s holds s in its memory and 100 + s in its pointer."""
    numbers = FAKE_NUMBERS
    arena = Arena(numbers)
    arena.reserve(8, 8)
    for slot in range(8):
        arena.memories.values[slot] = slot
        arena.pointers.values[slot] = 100 + slot
    return arena


LONG = MemoryRead(
    slots=(5, 1, 2),
    times=(6, 1, 0),
    weights=(1.0, 0.5, 1.0),
    ptr_slots=(3,),
    ptr_positions=(0.25,),
    ptr_weights=(1.0,),
    frames=(0, 8, 9),
)
SHORT = MemoryRead(
    slots=(4, 7),
    times=(3, 2),
    weights=(0.75, 0.5),
    ptr_slots=(6, 7),
    ptr_positions=(0.5, 1.0),
    ptr_weights=(1.0, 0.25),
    frames=(8, 9),
)


def test_a_row_is_padded_with_its_own_first_slot_at_weight_zero(arena: Arena) -> None:
    inputs = arena.gather_reads([LONG, SHORT])
    np.testing.assert_array_equal(inputs["memory"][..., 0, 0], [[5, 1, 2], [4, 7, 4]])
    np.testing.assert_array_equal(inputs["memory_time"], [[6, 1, 0], [3, 2, 3]])
    np.testing.assert_array_equal(inputs["memory_weight"], [[1, 0.5, 1], [0.75, 0.5, 0]])
    np.testing.assert_array_equal(inputs["obj_ptrs"][..., 0], [[103, 103], [106, 107]])
    np.testing.assert_array_equal(inputs["obj_ptr_pos"], [[0.25, 0.25], [0.5, 1]])
    np.testing.assert_array_equal(inputs["obj_ptr_weight"], [[1, 0], [1, 0.25]])


def test_rows_of_one_length_are_not_padded(arena: Arena) -> None:
    inputs = arena.gather_reads([SHORT, SHORT, SHORT])
    assert inputs["memory"].shape[:2] == (3, 2)
    assert inputs["obj_ptrs"].shape[:2] == (3, 2)
    assert inputs["memory_weight"].all()


def test_what_is_gathered_fits_the_contract(arena: Arena) -> None:
    spec = graph_specs(FAKE_NUMBERS)["memory_attention"]
    features = np.zeros((2, FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.d_model), np.float32)
    axes = spec.check_inputs(
        "memory_attention", {"attended_features": features, **arena.gather_reads([LONG, SHORT])}
    )
    assert axes == {"b": 2, "k": 3, "p": 2}


def test_what_was_gathered_does_not_change_when_a_slot_is_used_again(arena: Arena) -> None:
    inputs = arena.gather_reads([SHORT])
    arena.memories.values[4] = -1
    assert (inputs["memory"][:, 0] == 4).all()


def test_results_of_a_step_go_to_their_rooms_and_memories_alone_are_rounded(arena: Arena) -> None:
    arena.reserve(0, 0, 8)
    numbers, targets = FAKE_NUMBERS, [TargetSlots(3, 6, 1), TargetSlots(5, 0, 7)]
    shapes = (
        (2, numbers.num_tokens, numbers.mem_dim),
        (2, numbers.d_model),
        (2, numbers.d_model, numbers.grid, numbers.grid),
    )
    rng = np.random.default_rng(0)
    memories, pointers, images = (rng.random(shape, np.float32) for shape in shapes)
    arena.store(pack([LONG, SHORT], [0, 0], targets), memories, pointers, images)
    for row, target in enumerate(targets):
        rounded = np.empty(shapes[0][1:], np.float32)
        round_to_bfloat16(memories[row], rounded)
        assert (rounded != memories[row]).any()
        np.testing.assert_array_equal(arena.memories.values[target.memory], rounded)
        np.testing.assert_array_equal(arena.pointers.values[target.pointer], pointers[row])
        np.testing.assert_array_equal(
            arena.embeddings.values[target.embedding], images[row].ravel()
        )
