"""Fixed slots for memories and object pointers, reserved before a run and handed out during it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from runtime.bundle.contract import ModelNumbers
from runtime.devices.memory import HOST_MEMORY, DeviceMemory
from runtime.errors import OutOfMemory
from runtime.memory.batch import Batch, pack

if TYPE_CHECKING:
    from runtime.memory.records import MemoryRead, Record, TargetSlots


class Slots:
    """Equally shaped float32 tensors addressed by number.

    `take` never allocates: whoever will hold slots reserves them first and releases them at the end, so that
    addresses stay fixed while a run lasts.
    """

    def __init__(self, memory: DeviceMemory, shape: tuple[int, ...], name: str = "slots") -> None:
        self._memory, self._shape, self._name = memory, shape, name
        self.values: Buffer = memory.slots((0, *shape), name)
        self._free: list[int] = []
        self._reserved = 0

    @property
    def in_use(self) -> int:
        """Slots taken and not given back."""
        return len(self.values) - len(self._free)

    def reserve(self, count: int) -> None:
        """Set `count` slots aside, on top of all reserved before; what is stored stays.

        Raises OutOfMemory if they do not fit.
        """
        before = len(self.values)
        missing = self._reserved + count - before
        if missing <= 0:
            self._reserved += count
            return
        total = before + missing + int((before + missing) * self._memory.spare_share)
        try:
            grown = self._memory.slots((total, *self._shape), self._name)
        except (MemoryError, ValueError) as error:  # the second for more than numpy can count
            raise OutOfMemory(
                f"{total} memories of {4 * int(np.prod(self._shape))} bytes do not fit; track fewer "
                "objects at a time, remember fewer slices (capacity) or use a smaller image size"
            ) from error
        if before:
            self._memory.copy(self.values, grown[:before])
        self.values = grown
        self._free.extend(range(before, total))
        self._reserved += count

    def release(self, count: int) -> None:
        """Give up slots reserved and no longer held; their room is kept for the next one to reserve."""
        self._reserved -= count

    def keep_only(self, used: Collection[int], reserved: int) -> None:
        """Make every other slot free, and have so many reserved, whatever an interrupt has left of the accounts."""
        self._free = [slot for slot in range(len(self.values)) if slot not in used]
        self._reserved = reserved

    def take(self) -> int:
        """A free slot's number; IndexError if none was reserved."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Make a slot free again."""
        self._free.append(slot)


class Arena:
    """The memories (L, M), object pointers (C,) and, where compared, image embeddings (C * T,) of one predictor.

    Args:
        numbers: of the model.
        memory: where they lie.
    """

    def __init__(self, numbers: ModelNumbers, memory: DeviceMemory = HOST_MEMORY) -> None:
        self._memory = memory
        self.memories = Slots(memory, (numbers.memory_tokens, numbers.mem_dim), "memories")
        self.pointers = Slots(memory, (numbers.d_model,), "pointers")
        self.embeddings = Slots(memory, (numbers.d_model * numbers.num_tokens,), "embeddings")

    @property
    def tensors(self) -> list[Buffer]:
        """All tensors of the arena, as they lie now."""
        return [self.memories.values, self.pointers.values, self.embeddings.values]

    def reserve(self, memories: int, pointers: int, embeddings: int = 0) -> None:
        """Make room for so many more of each."""
        self.memories.reserve(memories)
        self.pointers.reserve(pointers)
        self.embeddings.reserve(embeddings)

    def release(self, memories: int, pointers: int, embeddings: int = 0) -> None:
        """Give up what was reserved."""
        self.memories.release(memories)
        self.pointers.release(pointers)
        self.embeddings.release(embeddings)

    def keep_only(
        self,
        memories: Iterable[Record],
        pointers: Iterable[Record],
        reserved: Sequence[int],
    ) -> None:
        """Hold the tensors of these records and no others.

        Args:
            memories, pointers: records of every bank and of all conditioning frames.
            reserved: memories, pointers and embeddings that their owners may hold.
        """
        staying = list(memories)
        embeddings = {r.embedding for r in staying if r.embedding is not None}
        used = {r.slot for r in staying}, {r.slot for r in pointers}, embeddings
        slots = self.memories, self.pointers, self.embeddings
        for pool, taken, count in zip(slots, used, reserved, strict=True):
            pool.keep_only(taken, count)

    def gather(self, batch: Batch) -> dict[str, Buffer]:
        """`memory`, `memory_time`, `memory_weight`, `obj_ptrs`, `obj_ptr_pos`, `obj_ptr_weight` of a batch."""
        return {
            "memory": self._memory.gather(self.memories.values, batch.slots),
            "memory_time": batch.times,
            "memory_weight": batch.weights,
            "obj_ptrs": self._memory.gather(self.pointers.values, batch.ptr_slots),
            "obj_ptr_pos": batch.ptr_positions,
            "obj_ptr_weight": batch.ptr_weights,
        }

    def gather_reads(self, reads: Sequence[MemoryRead]) -> dict[str, Buffer]:
        """Gather the same inputs for rows that are read outside a step."""
        return self.gather(pack(reads))

    def store(
        self, batch: Batch, memories: Buffer, pointers: Buffer, vision_features: Buffer
    ) -> None:
        """Write a batch's results to its targets; memories (b, L, M) are rounded to bfloat16, as upstream has it."""
        self._memory.store(self.memories.values, batch.memory_targets, memories, True)
        self._memory.store(self.pointers.values, batch.pointer_targets, pointers, False)
        if len(batch.embedding_targets):
            embeddings = batch.embedding_targets
            self._memory.store(self.embeddings.values, embeddings, vision_features, False)

    def store_one(
        self,
        target: TargetSlots,
        memory: Buffer | None,
        obj_ptr: Buffer,
        vision_features: Buffer | None,
    ) -> None:
        """Write a frame's memory (L, M), pointer (C,) and embedding (C, G, G) to its targets, as far as it has them."""
        parts = (
            (self.memories, target.memory, memory, True),
            (self.pointers, target.pointer, obj_ptr, False),
            (self.embeddings, target.embedding, vision_features, False),
        )
        for slots, slot, value, is_rounded in parts:
            if slot is not None and value is not None:
                rows = self._memory.put(value).reshape((1, *slots.values.shape[1:]))
                self._memory.store(slots.values, np.array([slot]), rows, is_rounded)

    def similarity(self, kind: str, slots: list[int], probe: Buffer) -> NDArray[np.float32]:
        """Cosines of a probe with stored tensors; `kind` is "memory" or "image"."""
        values = (self.memories if kind == "memory" else self.embeddings).values
        return self._memory.similarity(values, slots, probe)
