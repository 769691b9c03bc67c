"""The memory of one object: templates shared by both directions, and one chain of tracked frames each way.

It owns which records exist and gives evicted slots back to the arena; which to keep and what to read is decided by
the pure functions beside it.
"""

from __future__ import annotations

import numpy as np

from kernels.bfloat16 import round_to_bfloat16
from runtime.arena import Arena
from runtime.backends import Buffer
from runtime.contract import ModelNumbers
from runtime.memory import fifo
from runtime.memory.records import MemoryRead, Record


class Templates:
    """The prompted frames of one object."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.memories: list[Record] = []
        self.pointers: list[Record] = []

    def add(
        self, frame: int, memory: Buffer, obj_ptr: Buffer, confidence: float, object_score: float
    ) -> None:
        """Remember a prompted frame: memory (T, M), pointer (C,)."""
        self._arena.reserve(1, 1)
        slot, ptr_slot = store(self._arena, memory, obj_ptr)
        self.memories.append(Record(frame, slot, confidence, object_score, True))
        self.pointers.append(Record(frame, ptr_slot, confidence, object_score, True))

    def clear(self) -> None:
        """Forget all and give the slots back."""
        give_back(self._arena, self.memories, self.pointers)
        self.memories, self.pointers = [], []


class MemoryBank:
    """One chain: an object followed in one direction.

    Args:
        arena: where tensors live; `slots_needed` must have been reserved.
        templates: the object's prompted frames.
        direction: +1 forward, -1 backward.
        num_frames: frames of the whole volume.
        model: capacities.
    """

    def __init__(
        self,
        arena: Arena,
        templates: Templates,
        direction: int,
        num_frames: int,
        model: ModelNumbers,
    ) -> None:
        self._arena, self._templates, self._model = arena, templates, model
        self.direction, self._num_frames = direction, num_frames
        self.memories: list[Record] = []
        self.pointers: list[Record] = []

    @staticmethod
    def slots_needed(model: ModelNumbers) -> tuple[int, int]:
        """Memory and pointer slots one chain may hold at once, the newcomer beside a full bank included."""
        return model.num_maskmem, model.max_obj_ptrs

    def read(self, frame: int) -> MemoryRead:
        """What a step on `frame` reads."""
        return fifo.read(
            self._templates.memories,
            self._templates.pointers,
            self.memories,
            self.pointers,
            frame,
            self.direction,
            self._num_frames,
            self._model,
        )

    def offer(
        self, frame: int, memory: Buffer, obj_ptr: Buffer, confidence: float, object_score: float
    ) -> None:
        """Offer a tracked frame: memory (T, M), pointer (C,). What the policy drops is given back."""
        slot, ptr_slot = store(self._arena, memory, obj_ptr)
        new = Record(frame, slot, confidence, object_score)
        new_ptr = Record(frame, ptr_slot, confidence, object_score)
        memories = fifo.keep_latest(self.memories, new, self._model.num_maskmem - 1)
        pointers = fifo.keep_latest(self.pointers, new_ptr, self._model.max_obj_ptrs - 1)
        give_back(
            self._arena,
            [r for r in (*self.memories, new) if r not in memories],
            [r for r in (*self.pointers, new_ptr) if r not in pointers],
        )
        self.memories, self.pointers = memories, pointers

    def clear(self) -> None:
        """Forget all tracked frames and give their slots back."""
        give_back(self._arena, self.memories, self.pointers)
        self.memories, self.pointers = [], []


def store(arena: Arena, memory: Buffer, obj_ptr: Buffer) -> tuple[int, int]:
    """Write a memory, rounded to bfloat16 as upstream stores it, and its pointer; returns both slots."""
    slot, ptr_slot = arena.memories.take(), arena.pointers.take()
    round_to_bfloat16(np.asarray(memory, np.float32), arena.memories.values[slot])
    arena.pointers.values[ptr_slot] = obj_ptr
    return slot, ptr_slot


def give_back(arena: Arena, memories: list[Record], pointers: list[Record]) -> None:
    """Free the slots of these records."""
    for record in memories:
        arena.memories.give_back(record.slot)
    for record in pointers:
        arena.pointers.give_back(record.slot)
