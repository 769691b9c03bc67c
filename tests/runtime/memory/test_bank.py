from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.bfloat16 import round_to_bfloat16
from runtime.arena import Arena, Slots
from runtime.backends.fake import FakeBackend
from runtime.errors import OutOfMemory
from runtime.memory import MemoryBank, MemoryRules, Templates
from tests.fakes import FAKE_NUMBERS

MEMORY = np.zeros((FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim), np.float32)
FEATURES = np.zeros((FAKE_NUMBERS.d_model, FAKE_NUMBERS.grid, FAKE_NUMBERS.grid), np.float32)
POINTER = np.zeros(FAKE_NUMBERS.d_model, np.float32)


def make_arena() -> Arena:
    numbers = FAKE_NUMBERS
    return Arena(FakeBackend(numbers), numbers.num_tokens, numbers.mem_dim, numbers.d_model)


def make_bank(arena: Arena, templates: Templates, direction: int = 1) -> MemoryBank:
    return MemoryBank(arena, templates, direction, 100, FAKE_NUMBERS, MemoryRules())


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), prompted=st.integers(1, 3))
def test_chains_live_within_the_slots_reserved_and_give_all_back(
    lengths: list[int], prompted: int
) -> None:
    arena = make_arena()
    templates = Templates(arena, MemoryRules())
    for frame in range(prompted):
        templates.add(frame, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    banks = [make_bank(arena, templates) for _ in lengths]
    places = arena.memories.values, arena.pointers.values
    for step in range(max(lengths)):
        for bank, length in zip(banks, lengths, strict=True):
            if step < length:
                bank.offer(prompted + step, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    kept = [
        sum(min(length, capacity) for length in lengths) + prompted
        for capacity in (FAKE_NUMBERS.num_maskmem - 1, FAKE_NUMBERS.max_obj_ptrs - 1)
    ]
    assert [arena.memories.in_use, arena.pointers.in_use] == kept
    used = [record.slot for owner in (*banks, templates) for record in owner.memories]
    assert len(set(used)) == len(used), "no two records may share a slot"
    assert arena.memories.values is places[0], "nothing may move in a run"
    assert arena.pointers.values is places[1]
    for bank in banks:
        bank.close()
    templates.clear()
    templates.clear()
    assert arena.memories.in_use == arena.pointers.in_use == 0


def test_memories_are_rounded_to_bfloat16_and_pointers_are_not() -> None:
    rng = np.random.default_rng(3)
    memory = rng.normal(size=MEMORY.shape).astype(np.float32)
    pointer = rng.normal(size=POINTER.shape).astype(np.float32)
    rounded = np.empty_like(memory)
    round_to_bfloat16(memory, rounded)
    assert (rounded != memory).any()
    arena = make_arena()
    templates = Templates(arena, MemoryRules())
    templates.add(0, FEATURES, memory, pointer, 0.9, 5.0)
    bank = make_bank(arena, templates)
    bank.offer(1, FEATURES, memory, pointer, 0.9, 5.0)
    read = bank.read(2, FEATURES)
    assert len(read.slots) == len(read.ptr_slots) == 2
    for slot, ptr_slot in zip(read.slots, read.ptr_slots, strict=True):
        np.testing.assert_array_equal(arena.memories.values[slot], rounded)
        np.testing.assert_array_equal(arena.pointers.values[ptr_slot], pointer)


def test_deciding_what_to_read_touches_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = make_arena()
    templates = Templates(arena, MemoryRules())
    templates.add(0, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    bank = make_bank(arena, templates)
    bank.offer(1, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    for slots in (arena.memories, arena.pointers):
        monkeypatch.setattr(slots, "values", None)
    assert bank.read(2, FEATURES).frames == (0, 1)


def test_records_tell_confidence_score_and_whether_they_were_prompted() -> None:
    arena = make_arena()
    templates = Templates(arena, MemoryRules())
    templates.add(4, FEATURES, MEMORY, POINTER, 0.25, -3.0)
    bank = make_bank(arena, templates, direction=-1)
    bank.offer(3, FEATURES, MEMORY, POINTER, 0.75, 2.0)
    for owner, known in ((templates, (4, 0.25, -3.0, True)), (bank, (3, 0.75, 2.0, False))):
        for record in (*owner.memories, *owner.pointers):
            found = (record.frame, record.confidence, record.object_score, record.is_prompted)
            assert found == known


def test_reserving_more_keeps_what_is_stored() -> None:
    slots = Slots(FakeBackend(FAKE_NUMBERS), (3,))
    slots.reserve(2)
    slot = slots.take()
    slots.values[slot] = 7.0
    slots.reserve(4)
    assert len(slots.values) == 6
    assert slots.in_use == 1
    assert (slots.values[slot] == 7.0).all()


def test_what_was_released_is_reserved_again_without_moving_anything() -> None:
    slots = Slots(FakeBackend(FAKE_NUMBERS), (3,))
    slots.reserve(6)
    slots.release(5)
    before = slots.values
    slots.reserve(5)
    assert slots.values is before


def test_taking_what_was_not_reserved_is_a_mistake_of_the_program() -> None:
    slots = Slots(FakeBackend(FAKE_NUMBERS), (3,))
    slots.reserve(1)
    slots.take()
    with pytest.raises(IndexError):
        slots.take()


def test_memories_that_do_not_fit_are_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        raise MemoryError

    backend = FakeBackend(FAKE_NUMBERS)
    slots = Slots(backend, (3,))
    monkeypatch.setattr(backend, "empty", full)
    with pytest.raises(OutOfMemory, match="2 memories of 12 bytes") as refused:
        slots.reserve(2)
    assert refused.value.exit_code == 6
    assert slots.in_use == 0
