"""The memory of one object: conditioning frames shared by both directions, and one chain of tracked frames each way.

It owns which records exist and gives evicted slots back to the arena; which to keep and what to read is decided by
the pure functions beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from runtime.bundle.contract import ModelNumbers
from runtime.memory.arena import Arena
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.read import Clock, read
from runtime.memory.records import MemoryRead, Record, TargetSlots
from runtime.memory.rules import MemoryRules

NOTHING = Record(-1, -1, 0.0, 0.0)


class ConditioningFrames:
    """The prompted frames of one object.

    Args:
        arena: where tensors live.
        rules: tell whether image embeddings are kept too.
    """

    def __init__(self, arena: Arena, rules: MemoryRules) -> None:
        self._arena, self._rules = arena, rules
        self._each = 1, 1, int(rules.compares_images)
        self.memories: list[Record] = []
        self.pointers: list[Record] = []

    def add(
        self,
        frame: int,
        vision_features: Buffer,
        memory: Buffer,
        obj_ptr: Buffer,
        confidence: float,
        object_score: float,
    ) -> None:
        """Remember a prompted frame, in place of what is remembered of it: features (1, C, G, G), memory (L, M),
        pointer (C,).
        """
        self._arena.reserve(*self._each)
        target = take_targets(self._arena, self._rules)
        try:
            self._arena.store_one(target, memory, obj_ptr, vision_features)
        except BaseException:
            memory_record, pointer_record = records_of(target, NOTHING)
            give_back(self._arena, [memory_record], [], [pointer_record], [])
            self._arena.release(*self._each)
            raise
        new, new_ptr = records_of(target, Record(frame, -1, confidence, object_score, True))
        had, had_ptrs = self.memories, self.pointers
        self.memories, self.pointers = _with(had, new), _with(had_ptrs, new_ptr)
        give_back(self._arena, had, self.memories, had_ptrs, self.pointers)
        for _ in range(1 + len(had) - len(self.memories)):
            self._arena.release(*self._each)

    def drop(self, frame: int) -> None:
        """Forget one frame, if it is there."""
        self._keep([r for r in self.memories if r.frame != frame])

    def clear(self) -> None:
        """Forget all and give the slots back."""
        self._keep([])

    @property
    def slots_held(self) -> tuple[int, int, int]:
        """Memory, pointer and embedding slots."""
        memories, pointers, embeddings = (count * len(self.memories) for count in self._each)
        return memories, pointers, embeddings

    def _keep(self, staying: list[Record]) -> None:
        frames = {r.frame for r in staying}
        pointers = [r for r in self.pointers if r.frame in frames]
        give_back(self._arena, self.memories, staying, self.pointers, pointers)
        for _ in range(len(self.memories) - len(staying)):
            self._arena.release(*self._each)
        self.memories, self.pointers = staying, pointers


def _with(records: list[Record], new: Record) -> list[Record]:
    """Records in the order of frames, with a new one in place of its frame's."""
    others = [record for record in records if record.frame != new.frame]
    return sorted([*others, new], key=lambda record: record.frame)


class MemoryBank:
    """One chain: an object followed in one direction.

    Args:
        arena: where tensors live; what the chain may need is reserved until `close`.
        conditioning: the object's prompted frames.
        direction: +1 forward, -1 backward.
        num_frames: frames of the whole volume, infinite for a stream.
        model: capacities.
        rules: policy and pick-up.
        is_ordered: False for images of a set, which get no temporal code.
    """

    def __init__(
        self,
        arena: Arena,
        conditioning: ConditioningFrames,
        direction: int,
        num_frames: float,
        model: ModelNumbers,
        rules: MemoryRules,
        is_ordered: bool = True,
    ) -> None:
        self._arena, self._conditioning, self._model = arena, conditioning, model
        self._rules, self._limits = rules, rules.limits(model)
        self.direction, self._num_frames = direction, num_frames
        ordered: Clock = "exact" if rules.row.is_recency else "clipped"
        self._clock: Clock = ordered if is_ordered else "none"
        self.memories: list[Record] = []
        self.pointers: list[Record] = []
        self._cosines: dict[tuple[Record, Record], float] = {}
        arena.reserve(*self.slots_needed(model, rules))

    @staticmethod
    def slots_needed(model: ModelNumbers, rules: MemoryRules) -> tuple[int, int, int]:
        """Memory, pointer and embedding slots one chain may hold at once, the newcomer beside a full bank included."""
        memories = rules.limits(model).capacity + 1
        pointers = model.max_obj_ptrs if rules.row.is_recency else memories
        return memories, pointers, memories if rules.compares_images else 0

    @property
    def looks_at_images(self) -> bool:
        """Whether `read` needs to be given the frame's features."""
        return self._rules.pick_up != "all"

    def read(self, frame: int, vision_features: Buffer | None) -> MemoryRead:
        """What a step on `frame` with features (C, G, G) reads."""
        memory_read = read(
            self._conditioning.memories,
            self._conditioning.pointers,
            self.memories,
            self.pointers,
            frame,
            self.direction,
            self._num_frames,
            self._model,
            self._clock,
            self._rules.row.reads_pointers,
        )
        if not self.looks_at_images:
            return memory_read
        assert vision_features is not None
        embeddings = {r.slot: r.embedding for r in (*self._conditioning.memories, *self.memories)}
        slots = [e for slot in memory_read.slots if (e := embeddings[slot]) is not None]
        similarity = self._arena.similarity("image", slots, vision_features)
        # Seeded by the frame, so that a slice's draw does not depend on what was computed before it.
        rng = np.random.default_rng([self._rules.seed, frame])
        return replace(memory_read, weights=PICK_UPS[self._rules.pick_up](similarity, rng))

    def take_targets(self) -> TargetSlots:
        """Slots for the next frame to be offered; to be handed to `keep` or `give_up`."""
        return take_targets(self._arena, self._rules)

    def give_up(self, target: TargetSlots) -> None:
        """Give back slots that nothing came of."""
        self._keep(self.memories, self.pointers, *([r] for r in records_of(target, NOTHING)))

    def keep(self, frame: int, target: TargetSlots, confidence: float, object_score: float) -> None:
        """Offer a tracked frame whose tensors are in their slots; the policy decides what stays."""
        new, new_ptr = records_of(target, Record(frame, -1, confidence, object_score))
        records = [*self._conditioning.memories, *self.memories, new]
        memories = self._rules.row.keep(records, self._similarity(records), self._limits)
        if self._rules.row.is_recency:  # SAM 2 reads more pointers than memories
            pointers = [*self.pointers, new_ptr][-(self._model.max_obj_ptrs - 1) :]
        else:
            frames = {r.frame for r in memories}
            pointers = [r for r in (*self.pointers, new_ptr) if r.frame in frames]
        self._keep(memories, pointers, [*self.memories, new], [*self.pointers, new_ptr])

    def recall(
        self, frame: int, vision_features: Buffer, memory: Buffer | None, obj_ptr: Buffer
    ) -> None:
        """Put back a tracked frame whatever the policy says; without its memory only its pointer."""
        target = take_targets(self._arena, self._rules, has_memory=memory is not None)
        new, new_ptr = records_of(target, replace(NOTHING, frame=frame))
        if memory is not None:
            self.memories = [*self.memories, new]
        self.pointers = [*self.pointers, new_ptr]
        # Whatever fails here, close gives the slots back.
        self._arena.store_one(target, memory, obj_ptr, vision_features)

    def drop(self, frame: int) -> None:
        """Forget one tracked frame, if it is there: it has been prompted since."""
        self._keep(
            [r for r in self.memories if r.frame != frame],
            [r for r in self.pointers if r.frame != frame],
            self.memories,
            self.pointers,
        )

    def close(self) -> None:
        """Forget all tracked frames and give back every slot; to be called once."""
        self._keep([], [], self.memories, self.pointers)
        self._arena.release(*self.slots_needed(self._model, self._rules))

    def _keep(
        self,
        memories: list[Record],
        pointers: list[Record],
        had: list[Record],
        had_ptrs: list[Record],
    ) -> None:
        give_back(self._arena, had, memories, had_ptrs, pointers)
        self.memories, self.pointers = memories, pointers

    def _similarity(self, records: list[Record]) -> NDArray[np.float32]:
        """Cosines (n, n) among records; only pairs not known yet are computed."""
        compares = self._rules.row.compares
        if compares is None:
            return np.empty((0, 0), np.float32)
        values = self._arena.memories if compares == "memory" else self._arena.embeddings
        matrix = np.eye(len(records), dtype=np.float32)
        current: dict[tuple[Record, Record], float] = {}
        for i, later in enumerate(records):
            missing = [j for j in range(i) if (records[j], later) not in self._cosines]
            if missing:
                slots = [slot_of(records[j], compares) for j in missing]
                probe = values.values[slot_of(later, compares)]
                cosines = self._arena.similarity(compares, slots, probe)
                for j, cosine in zip(missing, cosines, strict=True):
                    self._cosines[records[j], later] = float(cosine)
            for j in range(i):
                pair = records[j], later
                matrix[i, j] = matrix[j, i] = current[pair] = self._cosines[pair]
        self._cosines = current
        return matrix


def slot_of(record: Record, compares: str) -> int:
    """Where the tensor lies by which a policy compares a record: its "memory" or its "image"."""
    if compares == "memory":
        return record.slot
    assert record.embedding is not None
    return record.embedding


def take_targets(arena: Arena, rules: MemoryRules, has_memory: bool = True) -> TargetSlots:
    """Slots for one frame."""
    memory = arena.memories.take() if has_memory else None
    keeps_image = has_memory and rules.compares_images
    return TargetSlots(
        memory, arena.pointers.take(), arena.embeddings.take() if keeps_image else None
    )


def records_of(target: TargetSlots, record: Record) -> tuple[Record, Record]:
    """The record of a memory that was written, and the twin for its pointer."""
    memory = -1 if target.memory is None else target.memory
    return (
        replace(record, slot=memory, embedding=target.embedding),
        replace(record, slot=target.pointer),
    )


def give_back(
    arena: Arena,
    before: Iterable[Record],
    after: Iterable[Record],
    ptrs_before: Iterable[Record],
    ptrs_after: Iterable[Record],
) -> None:
    """Free the slots of the records that are not kept."""
    staying = {*after, *ptrs_after}
    for record in before:
        if record not in staying:
            arena.memories.give_back(record.slot)
            if record.embedding is not None:
                arena.embeddings.give_back(record.embedding)
    for record in ptrs_before:
        if record not in staying:
            arena.pointers.give_back(record.slot)
