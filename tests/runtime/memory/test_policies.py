"""What each policy keeps: properties over random streams, examples by hand, and the published rule restated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.memory.policies import MAX_SKIPPED, POLICIES, RELEASED_MARGIN, PolicyLimits
from runtime.memory.records import Record

GATED = ("confidence", "self_sorting")
WITH_LATEST = ("confident_and_latest", "self_sorting_and_latest")
BLIND_TO_TEMPLATES = ("fifo", "confidence")
every_policy = pytest.mark.parametrize("policy", POLICIES)


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = unit @ unit.T
    np.fill_diagonal(matrix, 1.0)
    return (matrix + matrix.T) / 2


@dataclass(frozen=True)
class Stream:
    """What a chain meets: conditioning frames, and frames to be tracked; a record's slot is its row of `vectors`."""

    conditioning: list[Record]
    frames: list[Record]
    vectors: np.ndarray
    limits: PolicyLimits


@dataclass(frozen=True)
class Decision:
    """One question to a policy and its answer."""

    conditioning: list[Record]
    tracked: list[Record]
    new: Record
    similarity: np.ndarray
    limits: PolicyLimits
    kept: list[Record]

    @property
    def records(self) -> list[Record]:
        return [*self.conditioning, *self.tracked, self.new]

    @property
    def is_confident(self) -> bool:
        return self.new.confidence >= self.limits.min_confidence


def make_stream(
    seed: int, num_templates: int, length: int, dims: int, limits: PolicyLimits
) -> Stream:
    """Vectors and confidences are continuous: ties have no chance."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=num_templates + length)
    records = [
        Record(100 + slot, slot, float(confidence[slot]), 5.0, slot < num_templates)
        for slot in range(num_templates + length)
    ]
    vectors = rng.normal(size=(len(records), dims))
    return Stream(records[:num_templates], records[num_templates:], vectors, limits)


streams = st.builds(
    make_stream,
    seed=st.integers(0, 2**32 - 1),
    num_templates=st.integers(0, 3),
    length=st.integers(1, 14),
    dims=st.integers(2, 5),
    limits=st.builds(
        PolicyLimits,
        capacity=st.integers(1, 6),
        min_confidence=st.floats(0, 1),
        max_similarity=st.floats(-1, 1),
        min_similarity=st.floats(-1, 1),
    ),
)
any_stream = given(stream=streams)
unhurried = settings(deadline=None)


def decisions(policy: str, stream: Stream) -> Iterator[Decision]:
    """The questions a bank asks on its way, each about what the answer before left."""
    tracked: list[Record] = []
    for new in stream.frames:
        records = [*stream.conditioning, *tracked, new]
        similarity = cosines(stream.vectors[[record.slot for record in records]])
        kept = POLICIES[policy].keep(records, similarity, stream.limits)
        yield Decision(stream.conditioning, tracked, new, similarity, stream.limits, kept)
        tracked = kept


def reordered(decision: Decision, order: Sequence[int]) -> tuple[list[Record], np.ndarray]:
    return [decision.records[i] for i in order], decision.similarity[np.ix_(order, order)]


@every_policy
@unhurried
@any_stream
def test_the_answer_is_some_of_the_tracked_and_the_new_one_in_their_order(
    policy: str, stream: Stream
) -> None:
    for decision in decisions(policy, stream):
        chosen = set(decision.kept)
        assert decision.kept == [r for r in (*decision.tracked, decision.new) if r in chosen]
        assert not any(record.is_prompted for record in decision.kept)


@every_policy
@unhurried
@any_stream
def test_a_bank_never_outgrows_its_capacity_nor_shrinks(policy: str, stream: Stream) -> None:
    """Whatever the number of conditioning frames: those take nobody's place."""
    for decision in decisions(policy, stream):
        assert len(decision.tracked) <= len(decision.kept) <= stream.limits.capacity
        assert len(decision.kept) <= len(decision.tracked) + 1


@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in WITH_LATEST])
@unhurried
@any_stream
def test_a_bank_that_is_not_full_takes_in_whom_it_admits_and_lets_nobody_go(
    policy: str, stream: Stream
) -> None:
    for decision in decisions(policy, stream):
        alike = decision.similarity[len(stream.conditioning) : -1, -1]
        replaces = policy == "confidence" and (alike > stream.limits.max_similarity).any()
        refused = policy in GATED and not decision.is_confident
        if len(decision.tracked) < stream.limits.capacity and not refused and not replaces:
            assert decision.kept == [*decision.tracked, decision.new]


@every_policy
@unhurried
@any_stream
def test_the_same_question_has_the_same_answer_and_stays_as_it_was(
    policy: str, stream: Stream
) -> None:
    for decision in decisions(policy, stream):
        records, similarity = decision.records, decision.similarity.copy()
        again = POLICIES[policy].keep(records, similarity, stream.limits)
        assert again == decision.kept
        assert records == decision.records
        np.testing.assert_array_equal(similarity, decision.similarity)


@every_policy
@unhurried
@any_stream
def test_only_the_gated_policies_refuse_for_lack_of_confidence_alone(
    policy: str, stream: Stream
) -> None:
    for decision in decisions(policy, stream):
        if not decision.is_confident and policy in GATED:
            assert decision.kept == decision.tracked
        if policy == "fifo":
            assert decision.kept[-1] is decision.new
        if policy == "confidence" and decision.is_confident:
            assert decision.kept[-1] is decision.new


@unhurried
@any_stream
def test_fifo_keeps_the_latest_and_looks_at_no_similarity(stream: Stream) -> None:
    for decision in decisions("fifo", stream):
        latest = [*decision.tracked, decision.new][-stream.limits.capacity :]
        assert decision.kept == latest
        for similarity in (np.empty((0, 0)), np.full_like(decision.similarity, np.nan)):
            assert POLICIES["fifo"].keep(decision.records, similarity, stream.limits) == latest


@pytest.mark.parametrize("policy", BLIND_TO_TEMPLATES)
@unhurried
@any_stream
def test_fifo_and_confidence_decide_as_if_there_were_no_templates(
    policy: str, stream: Stream
) -> None:
    first = len(stream.conditioning)
    for decision in decisions(policy, stream):
        without = reordered(decision, range(first, len(decision.records)))
        assert POLICIES[policy].keep(*without, stream.limits) == decision.kept


@unhurried
@any_stream
def test_confidence_lets_go_of_the_most_alike_or_else_of_the_oldest(stream: Stream) -> None:
    for decision in decisions("confidence", stream):
        if not decision.is_confident or not decision.tracked:
            continue
        alike = decision.similarity[len(stream.conditioning) : -1, -1]
        is_repeat = alike.max() > stream.limits.max_similarity
        is_full = len(decision.tracked) == stream.limits.capacity
        gone = set(decision.tracked) - set(decision.kept)
        if is_repeat:
            assert gone == {decision.tracked[alike.argmax()]}
        else:
            assert gone == ({decision.tracked[0]} if is_full else set())


@unhurried
@any_stream
def test_self_sorting_lets_go_of_the_least_dissimilar(stream: Stream) -> None:
    first = len(stream.conditioning)
    for decision in decisions("self_sorting", stream):
        if decision.is_confident and len(decision.tracked) == stream.limits.capacity:
            others = ~np.eye(len(decision.records), dtype=bool)
            totals = [
                (1 - row[other]).sum()
                for row, other in zip(decision.similarity, others, strict=True)
            ]
            candidates = [*decision.tracked, decision.new]
            if len(decision.records) > 2:  # of two alone, each is as dissimilar as the other
                (gone,) = set(candidates) - set(decision.kept)
                assert gone is candidates[int(np.argmin(totals[first:]))]


@unhurried
@given(stream=streams, seed=st.integers(0, 99))
def test_what_self_sorting_keeps_does_not_depend_on_the_order_of_the_records(
    stream: Stream, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for decision in decisions("self_sorting", stream):
        last = len(decision.records) - 1
        shuffled = reordered(decision, [*rng.permutation(last), last])
        kept = POLICIES["self_sorting"].keep(*shuffled, stream.limits)
        assert set(kept) == set(decision.kept)
        assert kept == [record for record in shuffled[0] if record in set(kept)]


@pytest.mark.parametrize("policy", WITH_LATEST)
@unhurried
@any_stream
def test_the_latest_is_kept_with_confident_ones_alone_unless_it_is_an_outlier(
    policy: str, stream: Stream
) -> None:
    limits = stream.limits
    for decision in decisions(policy, stream):
        before = [r.frame for r in (*decision.conditioning, *decision.tracked)]
        is_outlier = (
            not decision.is_confident
            and bool(before)
            and decision.similarity[:-1, -1].max() < limits.min_similarity
            and min(decision.new.frame - frame for frame in before) <= MAX_SKIPPED
        )
        if is_outlier:
            assert decision.kept == decision.tracked
            continue
        *confident, latest = decision.kept
        assert latest is decision.new
        assert all(r.confidence >= limits.min_confidence for r in confident)
        known = [r for r in decision.tracked if r.confidence >= limits.min_confidence]
        assert len(confident) == min(len(known), limits.capacity - 1)
        if policy == "confident_and_latest":
            assert confident == known[len(known) - len(confident) :]


@unhurried
@any_stream
def test_self_sorting_with_the_latest_lets_go_of_the_least_dissimilar_confident_one(
    stream: Stream,
) -> None:
    for decision in decisions("self_sorting_and_latest", stream):
        known = [r for r in decision.tracked if r.confidence >= stream.limits.min_confidence]
        gone = [r for r in known if r not in decision.kept]
        if decision.new not in decision.kept or len(gone) != 1:
            continue
        compared = [*decision.conditioning, *known, decision.new]
        at = [decision.records.index(r) for r in compared]
        totals = (1 - decision.similarity[np.ix_(at, at)]).sum(1)
        first = len(decision.conditioning)
        assert gone == [known[int(np.argmin(totals[first:-1]))]]


@pytest.mark.parametrize("policy", WITH_LATEST)
def test_what_stays_unlike_for_long_is_how_things_look_now(policy: str) -> None:
    template = Record(0, 0, 0.9, 5.0, is_prompted=True)
    limits = PolicyLimits(capacity=6, min_confidence=0.5, max_similarity=1.0, min_similarity=0.65)
    unlike = np.eye(2, dtype=np.float32)
    for frame in range(1, MAX_SKIPPED + 3):
        new = Record(frame, 1, 0.2, 5.0)
        kept = POLICIES[policy].keep([template, new], unlike, limits)
        assert kept == ([] if frame <= MAX_SKIPPED else [new])


@pytest.mark.parametrize("policy", WITH_LATEST)
def test_outliers_by_hand(policy: str) -> None:
    limits = PolicyLimits(3, min_confidence=0.5, max_similarity=1.0, min_similarity=0.65)
    # Frame 1 is unsure, 2 sure, 3 new.
    similarity = symmetric([0.9, 0.8, 0.6], [0.9, 0.5], [0.64])
    assert kept_frames(policy, similarity, [0.9, 0.2, 0.9, 0.2], limits) == [1, 2]
    assert kept_frames(policy, similarity, [0.9, 0.2, 0.9, 0.6], limits) == [2, 3], "it is sure"
    similarity = symmetric([0.9, 0.8, 0.6], [0.9, 0.5], [0.66])
    assert kept_frames(policy, similarity, [0.9, 0.2, 0.9, 0.2], limits) == [2, 3], "it is like 2"
    everybody = PolicyLimits(3, 0.5, 1.0, min_similarity=-1.0)
    similarity = symmetric([0.9, 0.8, -1.0], [0.9, -1.0], [-1.0])
    assert kept_frames(policy, similarity, [0.9, 0.2, 0.9, 0.2], everybody) == [2, 3]


def symmetric(*rows: Sequence[float]) -> np.ndarray:
    """A matrix from what stands above its diagonal."""
    matrix = np.eye(len(rows) + 1, dtype=np.float32)
    for i, row in enumerate(rows):
        matrix[i, i + 1 :] = matrix[i + 1 :, i] = row
    return matrix


def kept_frames(
    policy: str, similarity: np.ndarray, confidence: Sequence[float], limits: PolicyLimits
) -> list[int]:
    """Of frame 0, a conditioning frame, and frames 1, 2, ... of which the last is new."""
    records = [Record(i, i, value, 5.0, i == 0) for i, value in enumerate(confidence)]
    return [record.frame for record in POLICIES[policy].keep(records, similarity, limits)]


def test_fifo_by_hand() -> None:
    similarity = symmetric([0.5, 0.5, 0.5], [0.5, 1.0], [1.0])
    limits = PolicyLimits(2, min_confidence=0.5, max_similarity=0.75)
    assert kept_frames("fifo", similarity, [0.9, 0.9, 0.9, 0.0], limits) == [2, 3]


@pytest.mark.parametrize(
    ("alike", "capacity", "kept"),
    [
        ([0.25, 0.5, 0.5], 3, [1, 2, 3]),
        ([0.25, 0.5, 0.5], 2, [2, 3]),  # the oldest goes
        ([0.25, 0.5, 0.875], 2, [1, 3]),  # a repeat of frame 2
        ([0.25, 0.5, 0.875], 3, [1, 3]),  # takes its place even where there is room
        ([0.25, 0.875, 0.9375], 2, [1, 3]),  # of two, the more alike
        ([0.25, 0.9375, 0.875], 2, [2, 3]),
        ([0.25, 0.5, 0.75], 3, [1, 2, 3]),  # as alike as may be
        ([1.0, 0.5, 0.5], 3, [1, 2, 3]),  # a repeat of the conditioning frame has nobody to replace
    ],
)
def test_confidence_by_hand(alike: list[float], capacity: int, kept: list[int]) -> None:
    similarity = symmetric([1.0, 1.0, alike[0]], [1.0, alike[1]], [alike[2]])
    limits = PolicyLimits(capacity, min_confidence=0.5, max_similarity=0.75)
    assert kept_frames("confidence", similarity, [0.9, 0.9, 0.9, 0.5], limits) == kept
    assert kept_frames("confidence", similarity, [0.9, 0.9, 0.9, 0.49], limits) == [1, 2]


def test_self_sorting_by_hand() -> None:
    # Total dissimilarities: frame 1: 1 + 0.5 + 0.5; frame 2: 0.25 + 0.5 + 0.75; frame 3: 0.5 + 0.5 + 0.75.
    similarity = symmetric([0.0, 0.75, 0.5], [0.5, 0.5], [0.25])
    limits = PolicyLimits(2, min_confidence=0.5, max_similarity=0.75)
    assert kept_frames("self_sorting", similarity, [0.9, 0.9, 0.9, 0.5], limits) == [1, 3]
    assert kept_frames("self_sorting", similarity, [0.9, 0.9, 0.9, 0.49], limits) == [1, 2]
    # Frame 3 now has 0.125 + 0.5 + 0.75: of all the least.
    similarity = symmetric([0.0, 0.75, 0.875], [0.5, 0.5], [0.25])
    assert kept_frames("self_sorting", similarity, [0.9, 0.9, 0.9, 1.0], limits) == [1, 2]


def test_of_equally_dissimilar_frames_self_sorting_lets_the_older_go() -> None:
    similarity = symmetric([0.5, 0.5, 0.5], [0.5, 0.5], [0.5])
    limits = PolicyLimits(2, min_confidence=0.5, max_similarity=0.75)
    assert kept_frames("self_sorting", similarity, [0.9, 0.9, 0.9, 0.9], limits) == [2, 3]


@pytest.mark.parametrize(
    ("capacity", "alike", "confidence", "kept"),
    [
        (4, [1.0, 0.5, 0.25, 0.375], 0.0, [1, 2, 3, 4]),  # not full: all come in
        (3, [1.0, 0.5, 0.25, 0.375], 0.9, [1, 2, 4]),  # 4 is least like 2, which is most like 3
        (3, [1.0, 0.125, 0.25, 0.375], 0.9, [1, 3, 4]),  # 4 is least like 1, which is most like 2
        (3, [0.0, 0.5, 0.25, 0.375], 0.9, [1, 3, 4]),  # 4 is least like 0, which is most like 2
        (3, [1.0, 0.875, 0.8125, 0.875], 0.9, [1, 2, 3]),  # more like 2 than 3 is
        (3, [1.0, 0.875, 0.75, 0.875], 0.9, [1, 2, 3]),  # as much like 2 as 3 is
        (3, [1.0, 0.5, 0.25, 0.375], 0.71, [1, 2, 4]),  # 3 has a confidence of 0.8
        (3, [1.0, 0.5, 0.25, 0.375], 0.69, [1, 2, 3]),
    ],
)
def test_self_sorting_as_released_by_hand(
    capacity: int, alike: list[float], confidence: float, kept: list[int]
) -> None:
    # Frame 2 is more like the conditioning frame than like 3, but conditioning frames are not replaced.
    new_0, new_1, new_2, new_3 = alike
    similarity = symmetric([0.0, 0.875, 0.0, new_0], [0.25, 0.0, new_1], [0.75, new_2], [new_3])
    limits = PolicyLimits(capacity, min_confidence=1.0, max_similarity=-1.0)
    scores = [0.9, 0.6, 0.7, 0.8, confidence]
    assert kept_frames("self_sorting_released", similarity, scores, limits) == kept


@dataclass(frozen=True)
class Entry:
    frame: int
    vector: np.ndarray
    iou: float


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def published(bank: list[Entry], new: Entry, capacity: int) -> list[Entry]:
    """Medical-SAM2 for images: one list, no conditioning frames."""
    if len(bank) < capacity:
        return [*bank, new]
    vectors = np.array([unit(entry.vector) for entry in bank])
    among = vectors @ vectors.T
    among[np.diag_indices_from(among)] = -np.inf
    alike = vectors @ unit(new.vector)
    i = alike.argmin()
    j = among[i].argmax()
    if alike[i] < among[i, j] and new.iou > bank[j].iou - 0.1:
        return [*(entry for entry in bank if entry is not bank[j]), new]
    return bank


def frames_by_both(stream: Stream) -> Iterator[tuple[list[int], list[int]]]:
    """Frames kept after each step: by the published rule, and by ours."""
    bank: list[Entry] = []
    for decision in decisions("self_sorting_released", stream):
        new = decision.new
        entry = Entry(new.frame, stream.vectors[new.slot], new.confidence)
        bank = published(bank, entry, stream.limits.capacity)
        yield [e.frame for e in bank], [record.frame for record in decision.kept]


@unhurried
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 40),
    dims=st.integers(2, 6),
    capacity=st.integers(1, 17),
)
def test_self_sorting_as_released_is_the_published_rule(
    seed: int, length: int, dims: int, capacity: int
) -> None:
    stream = make_stream(seed, 0, length, dims, PolicyLimits(capacity, 1.0, -1.0))
    for theirs, ours in frames_by_both(stream):
        assert ours == theirs


def test_the_streams_compared_replace_and_refuse() -> None:
    """Without this, the comparison above could be of banks that never change."""
    stream = make_stream(1, 0, 60, 4, PolicyLimits(6, 1.0, -1.0))
    banks = [theirs for theirs, _ in frames_by_both(stream)]
    is_new = [record.frame in bank for record, bank in zip(stream.frames, banks, strict=True)]
    assert 10 < sum(is_new[6:]) < 44


def test_the_margin_is_the_published_one() -> None:
    assert RELEASED_MARGIN == 0.1


@pytest.mark.parametrize("policy", GATED)
def test_a_confidence_that_is_no_number_does_not_pass_a_gate(policy: str) -> None:
    prompted = Record(0, 0, 0.9, 5.0, is_prompted=True)
    new = Record(1, 1, np.nan, 5.0)
    limits = PolicyLimits(capacity=6, min_confidence=0.0, max_similarity=0.98)
    assert POLICIES[policy].keep([prompted, new], np.eye(2, dtype=np.float32), limits) == []
