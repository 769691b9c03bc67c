"""What a step reads from a bank: slots with their temporal codes, pointers with their positions.

Rules of `exact`: sam2/modeling/sam2_base.py _prepare_memory_conditioned_features (facebookresearch/sam2 2b90b9f).
Pure functions over records; nothing here touches a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from runtime.bundle.contract import ModelNumbers
from runtime.memory.records import MemoryRead, Record

Clock = Literal["exact", "clipped", "none"]
"""How distance becomes a temporal code. `exact`: SAM 2's, frames too far away are not read. `clipped`: all are read,
the farthest ones as far as the code goes. `none`: no code, as images of a set have no order."""


def read(
    conditioning: Sequence[Record],
    conditioning_ptrs: Sequence[Record],
    tracked: Sequence[Record],
    tracked_ptrs: Sequence[Record],
    frame: int,
    direction: int,
    num_frames: float,
    model: ModelNumbers,
    clock: Clock = "exact",
    reads_pointers: bool = True,
) -> MemoryRead:
    """What a step on `frame` reads; every weight is 1.

    All conditioning frames are read, past and future, with the last row of the temporal code; a tracked frame at
    distance d up to num_maskmem - 1 with row d - 1, oldest first. A prompted frame among the last six takes its
    distance with it: nothing older moves up. Pointers: conditioning frames that are not ahead, then tracked frames up
    to min(num_frames, max_obj_ptrs) - 1 away; short volumes therefore change the code of every pointer.

    Args:
        conditioning, conditioning_ptrs: memories and pointers of the prompted frames.
        tracked, tracked_ptrs: memories and pointers of this chain's tracked frames.
        frame: the frame to be segmented.
        direction: +1 forward, -1 backward.
        num_frames: frames of the whole volume, whatever part of it is tracked; infinite for a stream.
        model: for num_maskmem and max_obj_ptrs.
        clock: how distance is coded.
        reads_pointers: False gives the pointers weight 0.
    """

    def distance(record: Record) -> int:
        return (frame - record.frame) * direction

    span = model.num_maskmem - 1
    reach = int(min(num_frames, model.max_obj_ptrs)) - 1
    if clock == "none":
        recent, near, past = list(tracked), list(tracked_ptrs), list(conditioning_ptrs)
        times = (model.no_time,) * (len(conditioning) + len(recent))
        positions = (0.0,) * (len(past) + len(near))
    else:
        is_exact = clock == "exact"
        recent = [r for r in tracked if 1 <= distance(r) <= span or not is_exact]
        recent.sort(key=distance, reverse=True)
        near = [r for r in tracked_ptrs if 1 <= distance(r) <= reach or not is_exact]
        near.sort(key=distance)
        past = [r for r in conditioning_ptrs if distance(r) >= 0]
        times = (span,) * len(conditioning) + tuple(min(distance(r), span) - 1 for r in recent)
        far = max(reach, 1)
        positions = (
            *(distance(r) / far for r in past),
            *(min(distance(r) / far, 1.0) for r in near),
        )
    memories, pointers = [*conditioning, *recent], [*past, *near]
    if not pointers:  # all conditioning frames lie ahead; the graph wants at least one
        pointers, positions, reads_pointers = list(conditioning_ptrs[:1]), (0.0,), False
    return MemoryRead(
        slots=tuple(r.slot for r in memories),
        times=times,
        weights=(1.0,) * len(memories),
        ptr_slots=tuple(r.slot for r in pointers),
        ptr_positions=positions,
        ptr_weights=(1.0 if reads_pointers else 0.0,) * len(pointers),
        frames=tuple(r.frame for r in memories),
    )
