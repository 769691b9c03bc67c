"""The memory rule against upstream's own loops, restated here over plain dicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import ModelNumbers
from runtime.memory.policies import Limits, keep_latest
from runtime.memory.read import read as read_bank
from runtime.memory.records import MemoryRead, Record
from tests.fakes import FAKE_NUMBERS

POINTER = 1000  # slots of pointers, so that they cannot be taken for those of memories
Codes = tuple[list[tuple[int, int]], list[tuple[int, float]]]


def upstream(
    cond: dict[int, str],
    non_cond: dict[int, str],
    frame: int,
    reverse: bool,
    num_frames: int,
    model: ModelNumbers,
) -> Codes:
    """(frame, row of the temporal code) of each memory and (frame, position) of each pointer, in order."""
    memories = [(index, model.num_maskmem - 1) for index in cond]
    for t_pos in range(1, model.num_maskmem):
        t_rel = model.num_maskmem - t_pos
        previous = frame + t_rel if reverse else frame - t_rel
        if non_cond.get(previous) is not None:
            memories.append((previous, model.num_maskmem - t_pos - 1))
    read = min(num_frames, model.max_obj_ptrs)
    sign = -1 if reverse else 1
    pointers = [
        ((frame - index) * sign, index)
        for index in cond
        if (index >= frame if reverse else index <= frame)
    ]
    for t_diff in range(1, read):
        index = frame + t_diff if reverse else frame - t_diff
        if index < 0 or index >= num_frames:
            break
        if non_cond.get(index) is not None:
            pointers.append((t_diff, index))
    return memories, [(index, distance / max(read - 1, 1)) for distance, index in pointers]


def records(frames: Iterable[int], first_slot: int = 0) -> list[Record]:
    """Records whose slots tell their frames."""
    return [Record(frame, first_slot + frame, 0.9, 5.0) for frame in frames]


def latest(kept: list[Record], capacity: int) -> list[Record]:
    return keep_latest(kept, np.empty((0, 0), np.float32), Limits(capacity, 0.0, 1.0))


def codes(read: MemoryRead) -> Codes:
    assert read.frames == read.slots, "the frames named must be those behind the slots"
    assert read.weights == (1.0,) * len(read.slots)
    assert read.ptr_weights == (1.0,) * len(read.ptr_slots)
    pointers = [slot - POINTER for slot in read.ptr_slots]
    return (
        list(zip(read.slots, read.times, strict=True)),
        list(zip(pointers, read.ptr_positions, strict=True)),
    )


@st.composite
def volumes(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Frames of a volume, and which are prompted, in the order of prompting."""
    num_frames = draw(st.integers(1, 30))
    frames = st.integers(0, num_frames - 1)
    return num_frames, draw(st.lists(frames, min_size=1, max_size=num_frames, unique=True))


models = st.builds(
    replace,
    st.just(FAKE_NUMBERS),
    num_maskmem=st.sampled_from([2, 4, 7]),
    max_obj_ptrs=st.sampled_from([2, 5, 16]),
)


@given(volume=volumes(), direction=st.sampled_from([1, -1]), model=models)
def test_every_step_of_a_chain_reads_what_upstream_reads(
    volume: tuple[int, list[int]], direction: int, model: ModelNumbers
) -> None:
    num_frames, prompted = volume
    templates, template_ptrs = records(prompted), records(prompted, POINTER)
    cond, non_cond = dict.fromkeys(prompted, "output"), {}
    tracked: list[Record] = []
    tracked_ptrs: list[Record] = []
    end = num_frames if direction > 0 else -1
    for frame in range(min(prompted) + direction, end, direction):
        if frame in cond:
            continue
        read = read_bank(
            templates, template_ptrs, tracked, tracked_ptrs, frame, direction, num_frames, model
        )
        assert codes(read) == upstream(cond, non_cond, frame, direction < 0, num_frames, model)
        non_cond[frame] = "output"
        (new,), (new_ptr,) = records([frame]), records([frame], POINTER)
        tracked = latest([*tracked, new], model.num_maskmem - 1)
        tracked_ptrs = latest([*tracked_ptrs, new_ptr], model.max_obj_ptrs - 1)


def test_a_prompted_frame_among_the_last_six_takes_its_distance_with_it() -> None:
    read = read_bank(
        records([2, 8]),
        records([2, 8], POINTER),
        records([3, 4, 5, 6, 7, 9]),
        records([3, 4, 5, 6, 7, 9], POINTER),
        frame=10,
        direction=1,
        num_frames=40,
        model=FAKE_NUMBERS,
    )
    assert read.slots == (2, 8, 4, 5, 6, 7, 9)
    assert read.times == (6, 6, 5, 4, 3, 2, 0)
    assert [slot - POINTER for slot in read.ptr_slots] == [2, 8, 9, 7, 6, 5, 4, 3]
    assert read.ptr_positions == tuple(d / 15 for d in (8, 2, 1, 3, 4, 5, 6, 7))


def test_templates_ahead_are_remembered_and_their_pointers_are_not_read() -> None:
    ahead = read_bank(records([2, 8]), records([2, 8], POINTER), [], [], 5, 1, 40, FAKE_NUMBERS)
    assert ahead.slots == (2, 8)
    assert ahead.ptr_slots == (POINTER + 2,)
    back = read_bank(records([2, 8]), records([2, 8], POINTER), [], [], 1, -1, 40, FAKE_NUMBERS)
    assert back.slots == (2, 8)
    assert back.ptr_positions == (1 / 15, 7 / 15)


def test_in_a_short_volume_pointer_distances_are_divided_by_its_length() -> None:
    short = read_bank(records([0]), records([0], POINTER), [], [], 3, 1, 5, FAKE_NUMBERS)
    assert short.ptr_positions == (3 / 4,)


@given(count=st.integers(0, 20), capacity=st.integers(1, 16))
def test_the_latest_records_are_kept_in_order(count: int, capacity: int) -> None:
    kept: list[Record] = []
    for record in records(range(count)):
        kept = latest([*kept, record], capacity)
    assert [record.frame for record in kept] == list(range(max(0, count - capacity), count))
