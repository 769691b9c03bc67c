"""Fixed slots for memories and object pointers, reserved before a run and handed out during it."""

from __future__ import annotations

import numpy as np

from runtime.backends import Backend, Buffer
from runtime.errors import OutOfMemory


class Slots:
    """Equally shaped tensors addressed by number.

    `take` never allocates: whoever will hold slots reserves them first and releases them at the end, so that
    addresses stay fixed while a run lasts.
    """

    def __init__(self, backend: Backend, shape: tuple[int, ...]) -> None:
        self._backend = backend
        self._shape = shape
        self.values: Buffer = backend.empty((0, *shape), "float32")
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
        try:
            grown = self._backend.empty((before + missing, *self._shape), "float32")
        except MemoryError as error:
            raise OutOfMemory(
                f"{before + missing} memories of {4 * int(np.prod(self._shape))} bytes do not fit; track fewer "
                "objects at a time or use a smaller image size"
            ) from error
        grown[:before] = self.values
        self.values = grown
        self._free.extend(range(before, before + missing))
        self._reserved += count

    def release(self, count: int) -> None:
        """Give up slots reserved and no longer held; their room is kept for the next one to reserve."""
        self._reserved -= count

    def take(self) -> int:
        """A free slot's number; IndexError if none was reserved."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Make a slot free again."""
        self._free.append(slot)


class Arena:
    """The memories (T, M), object pointers (C,) and, where compared, image embeddings (C * T,) of one predictor."""

    def __init__(self, backend: Backend, num_tokens: int, mem_dim: int, d_model: int) -> None:
        self.memories = Slots(backend, (num_tokens, mem_dim))
        self.pointers = Slots(backend, (d_model,))
        self.embeddings = Slots(backend, (d_model * num_tokens,))

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
