"""What memory policies see: small immutable records, never tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One remembered frame of one object. Two records are the same only if they are one.

    Attributes:
        frame: slice or frame number.
        slot: where its tensor lies in the arena.
        confidence: predicted iou, 0 where the object is absent.
        object_score: logit that the object is present.
        is_prompted: a conditioning frame, which no policy evicts.
        embedding: slot of its image embedding, where the bank's rules compare those.
    """

    frame: int
    slot: int
    confidence: float
    object_score: float
    is_prompted: bool = False
    embedding: int | None = None


@dataclass(frozen=True, slots=True)
class TargetSlots:
    """Slots set aside for one frame: its memory, its object pointer, its image embedding; None where it has none."""

    memory: int | None
    pointer: int
    embedding: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """What one row reads in one step, memories and pointers alike as parallel tuples.

    Attributes:
        slots, times, weights: memory slots, their rows of the temporal code, their attention weights.
        ptr_slots, ptr_positions, ptr_weights: pointer slots, signed distances in frames over (pointers read - 1),
            and weights.
        frames: the frames behind `slots`, for people.
    """

    slots: tuple[int, ...]
    times: tuple[int, ...]
    weights: tuple[float, ...]
    ptr_slots: tuple[int, ...]
    ptr_positions: tuple[float, ...]
    ptr_weights: tuple[float, ...]
    frames: tuple[int, ...]
