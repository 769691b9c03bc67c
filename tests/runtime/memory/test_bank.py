from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime.devices.memory
from kernels.bfloat16 import round_to_bfloat16
from kernels.slot_similarity import slot_similarity
from runtime.devices.memory import HOST_MEMORY, HostMemory
from runtime.errors import OutOfMemory
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules, Record
from runtime.memory.arena import Arena, Slots
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from tests.fakes import FAKE_NUMBERS

MEMORY = np.zeros((FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim), np.float32)
FEATURES = np.zeros((FAKE_NUMBERS.d_model, FAKE_NUMBERS.grid, FAKE_NUMBERS.grid), np.float32)
POINTER = np.zeros(FAKE_NUMBERS.d_model, np.float32)


def make_arena() -> Arena:
    return Arena(FAKE_NUMBERS)


def make_bank(arena: Arena, conditioning: ConditioningFrames, direction: int = 1) -> MemoryBank:
    return MemoryBank(arena, conditioning, direction, 100, FAKE_NUMBERS, MemoryRules())


def offer(
    arena: Arena,
    bank: MemoryBank,
    frame: int,
    vision_features: np.ndarray,
    memory: np.ndarray,
    pointer: np.ndarray,
    confidence: float,
    object_score: float,
) -> None:
    """What a step does with a tracked frame."""
    target = bank.take_targets()
    arena.store_one(target, memory, pointer, vision_features)
    bank.keep(frame, target, confidence, object_score)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), prompted=st.integers(1, 3))
def test_chains_live_within_the_slots_reserved_and_give_all_back(
    lengths: list[int], prompted: int
) -> None:
    arena = make_arena()
    conditioning = ConditioningFrames(arena, MemoryRules())
    for frame in range(prompted):
        conditioning.add(frame, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    banks = [make_bank(arena, conditioning) for _ in lengths]
    places = arena.memories.values, arena.pointers.values
    for step in range(max(lengths)):
        for bank, length in zip(banks, lengths, strict=True):
            if step < length:
                offer(arena, bank, prompted + step, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    kept = [
        sum(min(length, capacity) for length in lengths) + prompted
        for capacity in (FAKE_NUMBERS.num_maskmem - 1, FAKE_NUMBERS.max_obj_ptrs - 1)
    ]
    assert [arena.memories.in_use, arena.pointers.in_use] == kept
    used = [record.slot for owner in (*banks, conditioning) for record in owner.memories]
    assert len(set(used)) == len(used), "no two records may share a slot"
    assert arena.memories.values is places[0], "nothing may move in a run"
    assert arena.pointers.values is places[1]
    for bank in banks:
        bank.close()
    conditioning.clear()
    conditioning.clear()
    assert arena.memories.in_use == arena.pointers.in_use == 0


def test_memories_are_rounded_to_bfloat16_and_pointers_are_not() -> None:
    rng = np.random.default_rng(3)
    memory = rng.normal(size=MEMORY.shape).astype(np.float32)
    pointer = rng.normal(size=POINTER.shape).astype(np.float32)
    rounded = np.empty_like(memory)
    round_to_bfloat16(memory, rounded)
    assert (rounded != memory).any()
    arena = make_arena()
    conditioning = ConditioningFrames(arena, MemoryRules())
    conditioning.add(0, FEATURES, memory, pointer, 0.9, 5.0)
    bank = make_bank(arena, conditioning)
    offer(arena, bank, 1, FEATURES, memory, pointer, 0.9, 5.0)
    read = bank.read(2, FEATURES)
    assert len(read.slots) == len(read.ptr_slots) == 2
    for slot, ptr_slot in zip(read.slots, read.ptr_slots, strict=True):
        np.testing.assert_array_equal(arena.memories.values[slot], rounded)
        np.testing.assert_array_equal(arena.pointers.values[ptr_slot], pointer)


def test_deciding_what_to_read_touches_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = make_arena()
    conditioning = ConditioningFrames(arena, MemoryRules())
    conditioning.add(0, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    bank = make_bank(arena, conditioning)
    offer(arena, bank, 1, FEATURES, MEMORY, POINTER, 0.9, 5.0)
    for slots in (arena.memories, arena.pointers):
        monkeypatch.setattr(slots, "values", None)
    assert bank.read(2, FEATURES).frames == (0, 1)


def test_records_tell_confidence_score_and_whether_they_were_prompted() -> None:
    arena = make_arena()
    conditioning = ConditioningFrames(arena, MemoryRules())
    conditioning.add(4, FEATURES, MEMORY, POINTER, 0.25, -3.0)
    bank = make_bank(arena, conditioning, direction=-1)
    offer(arena, bank, 3, FEATURES, MEMORY, POINTER, 0.75, 2.0)
    for owner, known in ((conditioning, (4, 0.25, -3.0, True)), (bank, (3, 0.75, 2.0, False))):
        for record in (*owner.memories, *owner.pointers):
            found = (record.frame, record.confidence, record.object_score, record.is_prompted)
            assert found == known


def test_reserving_more_keeps_what_is_stored() -> None:
    slots = Slots(HOST_MEMORY, (3,))
    slots.reserve(2)
    slot = slots.take()
    slots.values[slot] = 7.0
    slots.reserve(4)
    assert len(slots.values) == 6
    assert slots.in_use == 1
    assert (slots.values[slot] == 7.0).all()


def test_what_was_released_is_reserved_again_without_moving_anything() -> None:
    slots = Slots(HOST_MEMORY, (3,))
    slots.reserve(6)
    slots.release(5)
    before = slots.values
    slots.reserve(5)
    assert slots.values is before


def test_taking_what_was_not_reserved_is_a_mistake_of_the_program() -> None:
    slots = Slots(HOST_MEMORY, (3,))
    slots.reserve(1)
    slots.take()
    with pytest.raises(IndexError):
        slots.take()


def test_memories_that_do_not_fit_are_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(shape: tuple[int, ...], name: str) -> np.ndarray:
        raise MemoryError

    memory = HostMemory()
    slots = Slots(memory, (3,))
    monkeypatch.setattr(memory, "slots", full)
    with pytest.raises(OutOfMemory, match="2 memories of 12 bytes") as refused:
        slots.reserve(2)
    assert refused.value.exit_code == 6
    assert slots.in_use == 0


def test_more_memories_than_anybody_can_count_are_out_of_memory() -> None:
    arena = make_arena()
    for count in (10**15, 10**30):
        with pytest.raises(OutOfMemory, match="do not fit; track fewer objects"):
            arena.memories.reserve(count)
    assert arena.memories.in_use == 0


@dataclass(frozen=True)
class Tensors:
    """What a frame brings along; each frame has its own."""

    features: np.ndarray
    memory: np.ndarray
    pointer: np.ndarray


def tensors(frame: int, version: int = 0) -> Tensors:
    rng = np.random.default_rng([frame, version])
    drawn = (rng.normal(size=like.shape) for like in (FEATURES, MEMORY, POINTER))
    return Tensors(*(values.astype(np.float32) for values in drawn))


@dataclass
class Chain:
    """An arena, conditioning frames and one bank under the same rules."""

    arena: Arena
    conditioning: ConditioningFrames
    bank: MemoryBank

    def prompt(self, frame: int, version: int = 0) -> None:
        new = tensors(frame, version)
        self.conditioning.add(frame, new.features, new.memory, new.pointer, 0.9, 5.0)

    def offer(self, *frames: int, confidence: float = 0.9) -> None:
        for frame in frames:
            new = tensors(frame)
            offer(
                self.arena, self.bank, frame, new.features, new.memory, new.pointer, confidence, 5.0
            )

    @property
    def frames(self) -> list[int]:
        return [record.frame for record in self.bank.memories]

    @property
    def in_use(self) -> list[int]:
        arena = self.arena
        return [slots.in_use for slots in (arena.memories, arena.pointers, arena.embeddings)]


def make_chain(rules: MemoryRules, is_ordered: bool = True) -> Chain:
    arena = make_arena()
    conditioning = ConditioningFrames(arena, rules)
    bank = MemoryBank(arena, conditioning, 1, 100, FAKE_NUMBERS, rules, is_ordered)
    return Chain(arena, conditioning, bank)


def with_embeddings_elsewhere(chain: Chain) -> Chain:
    """A memory and its embedding then lie in slots of different numbers, and cannot be taken for each other."""
    chain.arena.reserve(0, 0, 1)
    chain.arena.embeddings.take()
    return chain


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


every_policy = pytest.mark.parametrize("policy", POLICIES)
rules_of_all_kinds = st.builds(
    MemoryRules,
    policy=st.sampled_from([*POLICIES]),
    pick_up=st.sampled_from([*PICK_UPS]),
    capacity=st.sampled_from([None, 1, 2, 6]),
    min_confidence=st.just(0.5),
    max_similarity=st.sampled_from([0.0, 0.98]),
)
steps = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["offer", "offer", "offer", "doubt", "drop"])),
    max_size=50,
)


@settings(deadline=None)
@given(rules=rules_of_all_kinds, steps=steps, prompted=st.integers(1, 3))
def test_under_any_rules_chains_live_within_the_slots_reserved_and_give_all_back(
    rules: MemoryRules, steps: list[tuple[int, str]], prompted: int
) -> None:
    chain = make_chain(rules)
    for frame in range(prompted):
        chain.prompt(frame)
    backward = MemoryBank(chain.arena, chain.conditioning, -1, 100, FAKE_NUMBERS, rules)
    chains = [chain, replace(chain, bank=backward)]
    kinds = [chain.arena.memories, chain.arena.pointers, chain.arena.embeddings]
    places = [slots.values for slots in kinds]
    for step, (which, event) in enumerate(steps, prompted):
        if event == "drop":
            chains[which].bank.drop(step - 2)
        else:
            chains[which].offer(step, confidence=0.9 if event == "offer" else 0.1)
    owners = [chain.conditioning, chain.bank, backward]
    memories = [record for owner in owners for record in owner.memories]
    pointers = [record for owner in owners for record in owner.pointers]
    embeddings = [r.embedding for r in memories if r.embedding is not None]
    for used in ([r.slot for r in memories], [r.slot for r in pointers], embeddings):
        assert len(set(used)) == len(used), "no two records may share a slot"
    assert chain.in_use == [len(memories), len(pointers), len(embeddings)], "nothing may be lost"
    chain.bank.close()
    assert chain.in_use == [
        sum(len(records) for records in owned)
        for owned in (
            [backward.memories, chain.conditioning.memories],
            [backward.pointers, chain.conditioning.pointers],
            [backward.memories, chain.conditioning.memories] if rules.compares_images else [],
        )
    ]
    backward.close()
    chain.conditioning.clear()
    assert chain.in_use == [0, 0, 0]
    for direction in (1, -1):  # in the room of the first two
        MemoryBank(chain.arena, chain.conditioning, direction, 100, FAKE_NUMBERS, rules)
    for frame in range(prompted):
        chain.prompt(frame)
    for slots, place in zip(kinds, places, strict=True):
        assert slots.values is place, "nothing may move, in a run or after one"


@every_policy
@pytest.mark.parametrize("pick_up", PICK_UPS)
def test_image_embeddings_are_kept_only_where_they_are_compared(policy: str, pick_up: str) -> None:
    rules = MemoryRules(policy=policy, pick_up=pick_up)
    chain = make_chain(rules)
    chain.prompt(0)
    chain.offer(1, 2, 3)
    records = [*chain.conditioning.memories, *chain.bank.memories]
    assert [record.frame for record in records] == [0, 1, 2, 3]
    if not rules.compares_images:
        assert len(chain.arena.embeddings.values) == 0
        assert all(record.embedding is None for record in records)
        return
    assert chain.arena.embeddings.in_use == 4
    for record in records:
        stored = chain.arena.embeddings.values[record.embedding]
        np.testing.assert_array_equal(stored, tensors(record.frame).features.ravel())


@every_policy
def test_a_frame_keeps_its_pointer_as_long_as_its_memory_and_under_fifo_longer(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, capacity=2, max_similarity=1.0))
    chain.prompt(0)
    chain.offer(*range(1, 20))
    pointers = [record.frame for record in chain.bank.pointers]
    assert len(chain.frames) == 2
    assert pointers == (list(range(5, 20)) if policy == "fifo" else chain.frames)


@pytest.mark.parametrize("policy", ["confidence", "self_sorting"])
def test_a_frame_that_is_refused_leaves_no_trace(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, pick_up="weighted"))
    chain.prompt(0)
    chain.offer(1)
    before = chain.bank.memories, chain.bank.pointers, chain.in_use
    chain.offer(2, confidence=0.1)
    assert (chain.bank.memories, chain.bank.pointers, chain.in_use) == before


def test_a_repeated_image_takes_the_place_of_the_one_before() -> None:
    chain = make_chain(MemoryRules(policy="confidence"))
    chain.prompt(0)
    chain.offer(1, 2)
    new, repeated = tensors(3), tensors(1).features
    offer(chain.arena, chain.bank, 3, repeated, new.memory, new.pointer, 0.9, 5.0)
    assert chain.frames == [2, 3]


@pytest.mark.parametrize("is_ordered", [True, False])
@every_policy
def test_distance_is_coded_as_the_policy_and_the_kind_of_frames_ask(
    policy: str, is_ordered: bool
) -> None:
    chain = make_chain(MemoryRules(policy=policy), is_ordered)
    chain.prompt(0)
    chain.offer(1, 9)
    read = chain.bank.read(10, FEATURES)
    if not is_ordered:
        assert (read.frames, set(read.times)) == ((0, 1, 9), {FAKE_NUMBERS.no_time})
    elif policy == "fifo":
        assert (read.frames, read.times) == ((0, 9), (6, 0))
    else:
        assert (read.frames, read.times) == ((0, 1, 9), (6, 5, 0))
    assert set(read.ptr_weights) == {0.0 if policy == "self_sorting_released" else 1.0}


@every_policy
def test_a_dropped_frame_is_gone_and_an_unknown_one_is_not_missed(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, pick_up="weighted"))
    chain.prompt(0)
    chain.offer(1, 2, 3)
    assert chain.in_use == [4, 4, 4]
    chain.bank.drop(2)
    assert chain.frames == [record.frame for record in chain.bank.pointers] == [1, 3]
    assert chain.in_use == [3, 3, 3]
    chain.bank.drop(2)
    chain.bank.drop(0)  # a conditioning frame, which is not the bank's
    assert chain.in_use == [3, 3, 3]
    assert chain.bank.read(4, FEATURES).frames == (0, 1, 3)
    chain.offer(4)
    assert chain.frames == [1, 3, 4]


@every_policy
def test_a_frame_is_recalled_whatever_the_policy_thinks_of_it(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, pick_up="weighted", min_confidence=1.0))
    chain.prompt(0)
    for frame, is_memory_known in ((3, True), (4, False), (5, True)):
        old = tensors(frame)
        memory = old.memory if is_memory_known else None
        chain.bank.recall(frame, old.features, memory, old.pointer)
    assert chain.frames == [3, 5]
    assert [record.frame for record in chain.bank.pointers] == [3, 4, 5]
    assert chain.in_use == [3, 4, 3]
    for record in chain.bank.memories:
        rounded = np.empty_like(MEMORY)
        round_to_bfloat16(tensors(record.frame).memory, rounded)
        np.testing.assert_array_equal(chain.arena.memories.values[record.slot], rounded)
        embedding = chain.arena.embeddings.values[record.embedding]
        np.testing.assert_array_equal(embedding, tensors(record.frame).features.ravel())
    for record in chain.bank.pointers:
        stored = chain.arena.pointers.values[record.slot]
        np.testing.assert_array_equal(stored, tensors(record.frame).pointer)
    chain.bank.close()
    assert chain.in_use == [1, 1, 1]


@every_policy
def test_what_a_step_read_can_be_recalled_and_read_again(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, pick_up="resample", capacity=3))
    chain.prompt(0)
    chain.offer(*range(1, 9))
    read = chain.bank.read(9, tensors(9).features)
    rules = MemoryRules(policy=policy, pick_up="resample", capacity=3)
    bank = MemoryBank(chain.arena, chain.conditioning, 1, 100, FAKE_NUMBERS, rules)
    for record in chain.bank.pointers:
        old = tensors(record.frame)
        memory = old.memory if record.frame in read.frames else None
        bank.recall(record.frame, old.features, memory, old.pointer)
    again = bank.read(9, tensors(9).features)
    for name in ("frames", "times", "weights", "ptr_positions", "ptr_weights"):
        assert getattr(again, name) == getattr(read, name)


Seen = list[tuple[list[Record], np.ndarray]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The records and similarities of every question to a policy."""
    questions: Seen = []

    def spy_on(keep: Callable[..., list[Record]]) -> Callable[..., list[Record]]:
        def spy(records: Sequence[Record], similarity: np.ndarray, limits: object) -> list[Record]:
            questions.append((list(records), similarity.copy()))
            return keep(records, similarity, limits)

        return spy

    for name, policy in POLICIES.items():
        monkeypatch.setitem(POLICIES, name, replace(policy, keep=spy_on(policy.keep)))
    return questions


def rounded_memory(new: Tensors) -> np.ndarray:
    rounded = np.empty_like(MEMORY)
    round_to_bfloat16(new.memory, rounded)
    return rounded


@pytest.mark.parametrize(
    ("policy", "compared"),
    [
        ("confidence", lambda new: new.features),
        ("self_sorting", rounded_memory),
        ("self_sorting_released", rounded_memory),
    ],
)
def test_similarities_are_those_of_the_tensors_at_every_step(
    policy: str, compared: Callable[[Tensors], np.ndarray], seen: Seen
) -> None:
    rules = MemoryRules(policy=policy, capacity=2, pick_up="weighted")
    chain = with_embeddings_elsewhere(make_chain(rules))
    chain.prompt(5)
    chain.offer(6, 7, 8)
    chain.prompt(2)  # goes before the other conditioning frame
    chain.offer(9, 10)
    chain.conditioning.drop(5)
    chain.prompt(5, version=1)  # in the slot of the one before, with another content
    chain.offer(11, 12)
    versions = [0] * 5 + [1] * 2
    assert [records[-1].frame for records, _ in seen] == [6, 7, 8, 9, 10, 11, 12]
    for (records, similarity), version in zip(seen, versions, strict=True):
        contents = [
            compared(tensors(record.frame, version * (record.frame == 5))) for record in records
        ]
        wanted = [[cosine(a, b) for b in contents] for a in contents]
        np.testing.assert_allclose(similarity, wanted, atol=1e-5)
        assert (similarity == similarity.T).all()


def test_fifo_compares_nothing(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = count_pairs(monkeypatch)
    chain = make_chain(MemoryRules())
    chain.prompt(0)
    chain.offer(1, 2, 3)
    chain.bank.read(4, FEATURES)
    assert [similarity.size for _, similarity in seen] == [0, 0, 0]
    assert pairs == []


def count_pairs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of pairs of each comparison."""
    pairs: list[int] = []

    def counted(values: np.ndarray, slots: Iterable[int], probe: np.ndarray) -> np.ndarray:
        pairs.append(len(list(slots)))
        return slot_similarity(values, list(slots), probe)

    monkeypatch.setattr(runtime.devices.memory, "slot_similarity", counted)
    return pairs


@pytest.mark.parametrize("policy", ["confidence", "self_sorting", "self_sorting_released"])
def test_each_pair_is_compared_once(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = count_pairs(monkeypatch)
    chain = make_chain(MemoryRules(policy=policy, capacity=3))
    chain.prompt(0)
    chain.prompt(1)
    chain.offer(2)
    assert sum(pairs) == 1 + 2, (
        "the conditioning frames with each other, and the new frame with both"
    )
    for frame in range(3, 12):
        pairs.clear()
        known = 2 + len(chain.bank.memories)
        chain.offer(frame)
        assert sum(pairs) == known, "the new frame with all others"
    chain.prompt(20)
    pairs.clear()
    chain.offer(12)
    assert sum(pairs) == (2 + 3) + (2 + 3 + 1), (
        "the new conditioning frame and the new frame with all others"
    )


@pytest.mark.parametrize("policy", ["confidence", "self_sorting", "self_sorting_released"])
def test_what_is_known_of_pairs_does_not_grow_with_the_frames_seen(policy: str) -> None:
    chain = make_chain(MemoryRules(policy=policy, capacity=3))
    chain.prompt(0)
    for frame in range(1, 40):
        chain.offer(frame)
        assert len(chain.bank._cosines) <= 5 * 4 / 2, (
            "the conditioning frame, three frames and the new one"
        )


def expected_weights(rules: MemoryRules, frames: Iterable[int], frame: int) -> tuple[float, ...]:
    features = tensors(frame).features
    similarity = np.array([cosine(features, tensors(f).features) for f in frames], np.float32)
    return PICK_UPS[rules.pick_up](similarity, np.random.default_rng([rules.seed, frame]))


@every_policy
@pytest.mark.parametrize("pick_up", ["weighted", "resample"])
def test_weights_follow_the_likeness_of_the_slice_to_the_images_remembered(
    policy: str, pick_up: str
) -> None:
    rules = MemoryRules(policy=policy, pick_up=pick_up, seed=3)
    chain = with_embeddings_elsewhere(make_chain(rules))
    chain.prompt(0)
    chain.prompt(50)  # ahead
    chain.offer(*range(1, 9))
    read = chain.bank.read(11, tensors(11).features)
    assert len(read.frames) > 4
    assert len(read.weights) == len(read.frames)
    wanted = expected_weights(rules, read.frames, 11)
    assert read.weights == pytest.approx(wanted, abs=1e-4)
    assert len(set(wanted)) > 1
    assert set(read.ptr_weights) == {0.0 if policy == "self_sorting_released" else 1.0}


def test_the_image_that_is_seen_again_weighs_most() -> None:
    chain = make_chain(MemoryRules(pick_up="weighted"))
    chain.prompt(0)
    chain.offer(1, 2, 3)
    read = chain.bank.read(4, tensors(2).features)
    assert read.frames[int(np.argmax(read.weights))] == 2
    assert max(read.weights) > 2


@pytest.mark.parametrize("pick_up", ["weighted", "resample"])
def test_weights_do_not_depend_on_what_was_read_before(pick_up: str) -> None:
    rules = MemoryRules(pick_up=pick_up, seed=1)
    fresh, used = make_chain(rules), make_chain(rules)
    for chain in (fresh, used):
        chain.prompt(0)
        for frame in range(1, 6):
            if chain is used:
                chain.bank.read(frame, tensors(frame).features)
            chain.offer(frame)
    for frame in (6, 9, 7, 6):
        used.bank.read(frame, tensors(frame).features)
    reads = [chain.bank.read(6, tensors(6).features) for chain in (fresh, used)]
    assert reads[0].weights == reads[1].weights


def test_draws_differ_from_frame_to_frame_and_from_seed_to_seed() -> None:
    drawn = {}
    for seed in range(10):
        chain = make_chain(MemoryRules(pick_up="resample", seed=seed))
        chain.prompt(0)
        chain.offer(1, 2, 3, 4)
        for frame in (5, 6):
            drawn[seed, frame] = chain.bank.read(frame, FEATURES + 1).weights
    for frame in (5, 6):
        assert len({drawn[seed, frame] for seed in range(10)}) > 3
    assert any(drawn[seed, 5] != drawn[seed, 6] for seed in range(10))
