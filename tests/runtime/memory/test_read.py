"""The memory rule against upstream's own loops, restated here over plain dicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle.contract import ModelNumbers
from runtime.memory.policies import PolicyLimits, keep_latest
from runtime.memory.read import Clock
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
    return keep_latest(kept, np.empty((0, 0), np.float32), PolicyLimits(capacity, 0.0, 1.0))


def codes(read: MemoryRead) -> Codes:
    assert read.frames == read.slots, "the frames named must be those behind the slots"
    assert read.weights == (1.0,) * len(read.slots)
    if read.ptr_weights == (0.0,):
        return list(zip(read.slots, read.times, strict=True)), []
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
    conditioning, conditioning_ptrs = records(prompted), records(prompted, POINTER)
    cond, non_cond = dict.fromkeys(prompted, "output"), {}
    tracked: list[Record] = []
    tracked_ptrs: list[Record] = []
    end = num_frames if direction > 0 else -1
    for frame in range(min(prompted) + direction, end, direction):
        if frame in cond:
            continue
        read = read_bank(
            conditioning,
            conditioning_ptrs,
            tracked,
            tracked_ptrs,
            frame,
            direction,
            num_frames,
            model,
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


def test_where_every_template_lies_ahead_its_pointer_weighs_nothing() -> None:
    read = read_bank(records([8]), records([8], POINTER), [], [], 5, 1, 40, FAKE_NUMBERS)
    assert (read.ptr_slots, read.ptr_weights) == ((POINTER + 8,), (0.0,))
    assert (read.slots, read.weights) == ((8,), (1.0,))


def test_in_a_short_volume_pointer_distances_are_divided_by_its_length() -> None:
    short = read_bank(records([0]), records([0], POINTER), [], [], 3, 1, 5, FAKE_NUMBERS)
    assert short.ptr_positions == (3 / 4,)


@given(count=st.integers(0, 20), capacity=st.integers(1, 16))
def test_the_latest_records_are_kept_in_order(count: int, capacity: int) -> None:
    kept: list[Record] = []
    for record in records(range(count)):
        kept = latest([*kept, record], capacity)
    assert [record.frame for record in kept] == list(range(max(0, count - capacity), count))


@st.composite
def gappy_chains(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    """Prompted frames, tracked frames with gaps in the order of tracking, the next frame, the direction."""
    frames = draw(st.lists(st.integers(0, 60), min_size=2, max_size=20, unique=True))
    cut = draw(st.integers(1, len(frames) - 1))
    direction = draw(st.sampled_from([1, -1]))
    *tracked, frame = sorted(frames[cut:], reverse=direction < 0)
    return frames[:cut], tracked, frame, direction


def banks(prompted: list[int], tracked: list[int]) -> tuple[list[Record], ...]:
    return (
        records(prompted),
        records(prompted, POINTER),
        records(tracked),
        records(tracked, POINTER),
    )


@settings(deadline=None)
@given(chain=gappy_chains(), model=models, num_frames=st.sampled_from([5, 61, inf]))
def test_a_clipped_clock_reads_everything_and_stops_where_the_code_ends(
    chain: tuple[list[int], list[int], int, int], model: ModelNumbers, num_frames: float
) -> None:
    prompted, tracked, frame, direction = chain
    read = read_bank(*banks(prompted, tracked), frame, direction, num_frames, model, "clipped")
    memories, pointers = codes(read)
    farthest, of_templates = model.num_maskmem - 2, model.num_maskmem - 1  # rows of the code
    assert memories == [
        *((index, of_templates) for index in prompted),
        *((index, min(abs(frame - index) - 1, farthest)) for index in tracked),
    ]
    far = max(min(num_frames, model.max_obj_ptrs) - 1, 1)
    behind = [index for index in prompted if (frame - index) * direction > 0]
    assert pointers == [
        *((index, abs(frame - index) / far) for index in behind),
        *((index, min(abs(frame - index) / far, 1.0)) for index in reversed(tracked)),
    ]


@settings(deadline=None)
@given(chain=gappy_chains(), model=models)
def test_a_clipped_clock_is_the_exact_one_for_what_that_reads(
    chain: tuple[list[int], list[int], int, int], model: ModelNumbers
) -> None:
    *bank, frame, direction = chain
    exact, clipped = (
        codes(read_bank(*banks(*bank), frame, direction, 61, model, clock))
        for clock in ("exact", "clipped")
    )
    for some, more in zip(exact, clipped, strict=True):
        assert set(some) <= set(more)
    assert len(clipped[0]) == len(bank[0]) + len(bank[1]), "every memory is read"


@settings(deadline=None)
@given(chain=gappy_chains(), model=models)
def test_without_a_clock_everything_is_read_in_the_banks_order_and_has_no_code(
    chain: tuple[list[int], list[int], int, int], model: ModelNumbers
) -> None:
    prompted, tracked, frame, direction = chain
    unordered = tracked[::-1]
    read = read_bank(*banks(prompted, unordered), frame, direction, 61, model, "none")
    memories, pointers = codes(read)
    assert memories == [(index, model.no_time) for index in (*prompted, *unordered)]
    assert pointers == [(index, 0.0) for index in (*prompted, *unordered)], "also those ahead"


def test_clocks_by_hand() -> None:
    """Distances of 9, 6 and 1 frames from the tracked ones, 10 from the prompted one before, 4 from the one ahead."""
    chain = banks([0, 14], [1, 4, 9])
    reads = {
        clock: read_bank(*chain, 10, 1, 40, FAKE_NUMBERS, clock)
        for clock in ("exact", "clipped", "none")
    }
    assert {clock: read.frames for clock, read in reads.items()} == {
        "exact": (0, 14, 4, 9),
        "clipped": (0, 14, 1, 4, 9),
        "none": (0, 14, 1, 4, 9),
    }
    assert {clock: read.times for clock, read in reads.items()} == {
        "exact": (6, 6, 5, 0),
        "clipped": (6, 6, 5, 5, 0),
        "none": (7, 7, 7, 7, 7),
    }
    in_order = tuple(distance / 15 for distance in (10, 1, 6, 9))
    assert {clock: read.ptr_positions for clock, read in reads.items()} == {
        "exact": in_order,
        "clipped": in_order,
        "none": (0.0,) * 5,
    }


@pytest.mark.parametrize("clock", ["exact", "clipped", "none"])
def test_pointers_that_are_not_read_weigh_nothing(clock: Clock) -> None:
    chain = banks([0, 14], [1, 4, 9])
    read, blind = (
        read_bank(*chain, 10, 1, 40, FAKE_NUMBERS, clock, reads_pointers)
        for reads_pointers in (True, False)
    )
    assert len(blind.ptr_slots) >= 4
    assert blind.ptr_weights == (0.0,) * len(blind.ptr_slots)
    assert replace(blind, ptr_weights=read.ptr_weights) == read
