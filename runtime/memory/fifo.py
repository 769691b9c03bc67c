"""SAM 2's own memory, to the letter: every prompted frame, the last six tracked ones, the last pointers.

Rules: sam2/modeling/sam2_base.py _prepare_memory_conditioned_features (facebookresearch/sam2 2b90b9f). Pure
functions over records; nothing here touches a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.contract import ModelNumbers
from runtime.memory.records import MemoryRead, Record


def keep_latest(kept: Sequence[Record], new: Record, capacity: int) -> list[Record]:
    """The policy: the latest `capacity` records, the new one included."""
    return [*kept, new][-capacity:]


def read(
    templates: Sequence[Record],
    template_ptrs: Sequence[Record],
    tracked: Sequence[Record],
    tracked_ptrs: Sequence[Record],
    frame: int,
    direction: int,
    num_frames: int,
    model: ModelNumbers,
) -> MemoryRead:
    """What a step on `frame` reads.

    All templates are read, past and future, with the last row of the temporal code; a tracked frame at distance d
    up to num_maskmem - 1 with row d - 1, oldest first. A prompted frame among the last six takes its distance with
    it: nothing older moves up. Pointers: templates that are not ahead, then tracked frames up to
    min(num_frames, max_obj_ptrs) - 1 away; short volumes therefore change the code of every pointer.

    Args:
        templates, template_ptrs: memories and pointers of the prompted frames.
        tracked, tracked_ptrs: memories and pointers of this chain's tracked frames.
        frame: the frame to be segmented.
        direction: +1 forward, -1 backward.
        num_frames: frames of the whole volume, whatever part of it is tracked.
        model: for num_maskmem and max_obj_ptrs.
    """

    def distance(record: Record) -> int:
        return (frame - record.frame) * direction

    span = model.num_maskmem - 1
    recent = sorted((r for r in tracked if 1 <= distance(r) <= span), key=distance, reverse=True)
    memories = [*templates, *recent]
    reach = min(num_frames, model.max_obj_ptrs) - 1
    past = [r for r in template_ptrs if distance(r) >= 0]
    near = sorted((r for r in tracked_ptrs if 1 <= distance(r) <= reach), key=distance)
    pointers = [*past, *near]
    return MemoryRead(
        slots=tuple(r.slot for r in memories),
        times=(span,) * len(templates) + tuple(distance(r) - 1 for r in recent),
        weights=(1.0,) * len(memories),
        ptr_slots=tuple(r.slot for r in pointers),
        ptr_positions=tuple(distance(r) / max(reach, 1) for r in pointers),
        ptr_weights=(1.0,) * len(pointers),
        frames=tuple(r.frame for r in memories),
    )
