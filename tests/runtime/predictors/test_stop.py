"""Chains end with their object: what is visited, encoded and handed out, whatever happened before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.memory import MemoryRules
from runtime.predictors import VideoPredictor, VolumePredictor
from runtime.predictors.result import Result
from runtime.predictors.stop import End, StopRule, ends
from runtime.prompts.prompts import Box, Point
from tests.fakes import AS_SURE_AS_GREY, fake_model

SIDE = 16
RULE = StopRule(below=0.5, after=2)
SURE, UNSURE, ABSENT = 0.9, 0.3, 0.0


def volume(
    worth: Sequence[float], rules: MemoryRules | None = None, zoom: float | None = None
) -> tuple[VolumePredictor, Any]:
    """A predictor whose network is so sure of each slice, and its back end."""
    model, backend = fake_model(AS_SURE_AS_GREY)
    predictor = VolumePredictor(model, rules, zoom=zoom)
    grey = np.rint(250 * np.array(worth)).astype(np.uint8)
    predictor.set_volume(np.broadcast_to(grey[:, None, None], (len(worth), SIDE, SIDE)), "none")
    return predictor, backend


def box(index: int) -> Box:
    return Box(slice=index, y=(2, 12), x=(2, 12))


def visited(result: Result, object_id: int = 1) -> list[int]:
    return sorted(result.slices[object_id])


def count(backend: Any, graph: str) -> int:
    """Slices or rows that a graph was run for."""
    first = {"image_encoder": "image", "memory_attention": "attended_features"}[graph]
    return sum(len(call.inputs[first]) for call in backend.calls if call.graph == graph)


def test_a_chain_ends_after_so_many_slices_without_its_object() -> None:
    predictor, backend = volume([ABSENT] * 10 + [SURE] * 5 + [ABSENT] * 10)
    predictor.add(box(12))
    result = predictor.propagate(stop=RULE)
    assert visited(result) == list(range(8, 17))
    assert result.is_complete
    assert count(backend, "image_encoder") == 9
    assert count(backend, "memory_attention") == 8


@pytest.mark.parametrize(("below", "last"), [(0.0, 15), (0.31, 12), (0.29, 15)])
def test_unsure_slices_count_where_the_rule_says_so(below: float, last: int) -> None:
    predictor, _ = volume([SURE] * 11 + [UNSURE] * 3 + [ABSENT] * 10)
    predictor.add(box(8))
    result = predictor.propagate(stop=StopRule(below=below, after=2), directions=(1,))
    assert visited(result)[-1] == last


def test_an_object_that_vanishes_for_a_slice_and_returns_survives() -> None:
    predictor, _ = volume([SURE] * 5 + [ABSENT] + [SURE] * 5 + [ABSENT] * 9)
    predictor.add(box(2))
    assert visited(predictor.propagate(stop=RULE)) == list(range(13))
    predictor.reset()
    predictor.add(box(2))
    assert visited(predictor.propagate(stop=StopRule(below=0.5, after=1))) == list(range(6))


def test_without_a_rule_every_slice_is_visited() -> None:
    predictor, _ = volume([SURE] + [ABSENT] * 19)
    predictor.add(box(0))
    assert visited(predictor.propagate()) == list(range(20))
    assert visited(predictor.propagate(stop=None)) == list(range(20))


def test_a_slice_whose_scores_are_no_numbers_counts() -> None:
    rule = StopRule(below=0.0, after=1)
    assert rule.counts(Seen(SURE, is_finite=False)) and rule.counts(Seen(ABSENT))
    assert not rule.counts(Seen(SURE)) and not rule.counts(Seen(UNSURE))
    assert not StopRule(below=SURE, after=1).counts(Seen(SURE))


def test_a_later_run_without_the_rule_goes_on_from_the_end() -> None:
    predictor, backend = volume([SURE] * 5 + [ABSENT] * 10)
    predictor.add(box(2))
    assert visited(predictor.propagate(stop=RULE)) == list(range(7))
    steps = count(backend, "memory_attention")
    rest = predictor.propagate(stop=None)
    assert visited(rest) == list(range(15))
    assert count(backend, "memory_attention") - steps == 8, "only what was missing"
    fresh, _ = volume([SURE] * 5 + [ABSENT] * 10)
    fresh.add(box(2))
    assert_equal(rest, fresh.propagate(stop=None))
    again = predictor.propagate(stop=RULE)
    assert visited(again) == list(range(7)), "a rule gives the same whatever is known beyond"
    assert count(backend, "memory_attention") - steps == 8


def test_a_prompt_beyond_the_end_says_that_the_object_goes_on() -> None:
    predictor, _ = volume([SURE] * 5 + [ABSENT] * 10 + [SURE] * 3 + [ABSENT] * 10)
    predictor.add(box(2))
    assert visited(predictor.propagate(stop=RULE))[-1] == 6
    predictor.add(box(16))
    assert visited(predictor.propagate(stop=RULE)) == list(range(20))
    predictor.undo()
    assert visited(predictor.propagate(stop=RULE))[-1] == 6


def test_each_object_and_direction_ends_by_itself() -> None:
    predictor, _ = volume([ABSENT] * 5 + [SURE] * 5 + [ABSENT] * 5 + [SURE] * 5)
    predictor.add(box(7), object_id=1)
    predictor.add(box(17), object_id=2)
    result = predictor.propagate(stop=RULE)
    assert visited(result, 1) == list(range(3, 12))
    assert visited(result, 2) == list(range(13, 20))


def test_the_range_still_holds() -> None:
    predictor, _ = volume([ABSENT] * 5 + [SURE] * 5 + [ABSENT] * 5)
    predictor.add(box(7))
    assert visited(predictor.propagate((6, 11), stop=RULE)) == [6, 7, 8, 9, 10]
    assert visited(predictor.propagate(stop=RULE)) == list(range(3, 12))


@pytest.mark.parametrize(
    ("worth", "z_range", "expected"),
    [
        ([SURE] * 5, None, [("input", 4), ("input", 0)]),
        ([SURE] * 9, (2, 6), [("range", 5), ("range", 2)]),
        ([SURE] * 4 + [ABSENT] * 4, None, [("absent", 5), ("input", 0)]),
        (
            [UNSURE, UNSURE, ABSENT] + [SURE] * 3 + [UNSURE, ABSENT],
            None,
            [("unsure", 7), ("unsure", 1)],
        ),
    ],
)
def test_where_and_why_each_direction_ended_is_told(
    worth: list[float], z_range: tuple[int, int] | None, expected: list[tuple[str, int]]
) -> None:
    predictor, _ = volume(worth)
    predictor.add(box(3))
    found = predictor.propagate(z_range, stop=RULE).slices[1]
    told = ends({i: m.segmented for i, m in found.items()}, {3}, RULE, z_range, len(worth))
    assert told == [
        End(way, index, reason) for way, (reason, index) in zip((1, -1), expected, strict=True)
    ]


def test_an_end_that_came_from_outside_is_told_as_such() -> None:
    predictor, _ = volume([SURE] * 9)
    predictor.add(box(3))
    found = {m.slice: m.segmented for m, _ in zip(predictor.stream(), range(4), strict=False)}
    assert {end.reason for end in ends(found, {3}, None, None, 9)} == {"cancelled"}
    assert ends({}, {3}, None, None, 9) == []


@pytest.mark.parametrize("below", [-0.1, 1.1, nan, True, "half", None])
def test_a_threshold_that_is_no_confidence_is_refused(below: Any) -> None:
    with pytest.raises(InputError, match="stop_below"):
        StopRule(below=below)


@pytest.mark.parametrize("after", [0, -1, 2.0, True, None])
def test_a_count_that_is_no_count_is_refused(after: Any) -> None:
    with pytest.raises(InputError, match="stop_after"):
        StopRule(below=0.5, after=after)


def test_a_lesion_on_twelve_of_three_hundred_slices_costs_an_eighth_at_most() -> None:
    depth, first, last = 300, 140, 152
    worth = [SURE if first <= i < last else ABSENT for i in range(depth)]
    costs = []
    for rule in (None, StopRule(below=0.5)):
        predictor, backend = volume(worth)
        predictor.add(box(146))
        predictor.propagate(stop=rule)
        costs.append([count(backend, graph) for graph in ("image_encoder", "memory_attention")])
    assert costs[0] == [depth, depth - 1]
    assert all(cost <= 0.12 * whole for whole, cost in zip(*costs, strict=True))


def frames_of(worth: Sequence[float]) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE), round(250 * value), np.uint8) for value in worth]


def video(rule: StopRule | None) -> tuple[VideoPredictor, Any]:
    model, backend = fake_model(AS_SURE_AS_GREY)
    return VideoPredictor(model, stop=rule), backend


def test_an_object_of_a_video_ends_and_its_frames_are_not_encoded() -> None:
    predictor, backend = video(RULE)
    worth = [SURE] * 3 + [ABSENT] + [SURE] * 2 + [ABSENT, UNSURE] + [SURE] * 4
    found = []
    for number, frame in enumerate(frames_of(worth)):
        found.append(list(predictor.push(frame)))
        if number == 0:
            predictor.add(box(0))
            assert predictor.ends == {}
    assert found == [[]] + [[1]] * 7 + [[]] * 4
    assert predictor.ends == {1: End(1, 7, "unsure")}
    assert count(backend, "image_encoder") == 8


def test_a_prompt_takes_an_object_of_a_video_up_again() -> None:
    predictor, _ = video(RULE)
    for number, frame in enumerate(frames_of([SURE] + [ABSENT] * 4 + [SURE] * 3 + [ABSENT] * 3)):
        masks = predictor.push(frame)
        if number in (0, 5):
            predictor.add(box(0), object_id=4)
        elif number in (1, 2, 6, 7, 8, 9):
            assert list(masks) == [4]
        else:
            assert masks == {}
    assert predictor.ends == {4: End(1, 9, "absent")}
    predictor.reset()
    assert predictor.ends == {}


def test_without_a_rule_an_object_of_a_video_never_ends() -> None:
    predictor, _ = video(None)
    predictor.push(frames_of([SURE])[0])
    predictor.add(box(0))
    assert all(list(predictor.push(frame)) == [1] for frame in frames_of([ABSENT] * 12))
    assert predictor.ends == {}


# Whatever happened before, a run gives what a fresh predictor gives.


@dataclass(frozen=True)
class Story:
    """What a user does: numbers are drawn wide and brought into range where they are used."""

    worth: list[float]
    first: int
    rule: StopRule
    deeds: list[tuple[str, int]]
    memory: str = "fifo"
    zoom: float | None = None

    def predictor(self) -> VolumePredictor:
        """One that has not been used."""
        return volume(self.worth, MemoryRules(policy=self.memory), self.zoom)[0]


worths = st.lists(st.sampled_from([SURE, SURE, UNSURE, ABSENT]), min_size=4, max_size=14)
deeds = st.tuples(
    st.sampled_from(
        ["run", "free run", "cancel", "range", "prompt", "correct", "undo", "redo", "interrupt"]
    ),
    st.integers(0, 1000),
)
stories = st.builds(
    Story,
    worth=worths,
    first=st.integers(0, 13),
    rule=st.builds(StopRule, below=st.sampled_from([0.0, 0.5]), after=st.integers(1, 3)),
    deeds=st.lists(deeds, max_size=7),
    memory=st.sampled_from(["fifo", "self_sorting", "confident_and_latest"]),
    zoom=st.sampled_from([None, None, 1.5]),
)


def play(story: Story) -> tuple[VolumePredictor, list[tuple[int, Any]]]:
    """A predictor after a story, and the prompts that are left of it."""
    predictor = story.predictor()
    depth = len(story.worth)
    prompts: list[tuple[int, Any]] = [(1, box(story.first % depth))]
    undone: list[tuple[int, Any]] = []
    predictor.add(prompts[0][1])
    for what, number in story.deeds:
        if what in ("run", "free run"):
            predictor.propagate(stop=story.rule if what == "run" else None)
        elif what == "cancel":
            stream = predictor.stream(stop=story.rule)
            for _ in zip(range(number % 6), stream, strict=False):
                pass
            predictor.cancel()
            list(stream)
        elif what == "range":
            held = sorted(p.slice for _, p in prompts)
            predictor.propagate((max(held[0] - number % 3, 0), held[-1] + 1), stop=story.rule)
        elif what == "prompt":
            prompts.append((1, box(number % depth)))
            predictor.add(prompts[-1][1])
            undone = []
        elif what == "correct":
            point = Point(slice=number % depth, y=4, x=5, positive=number % 2 == 0)
            prompts.append((1, point))
            predictor.add(point)
            undone = []
        elif what == "undo" and len(prompts) > 1:
            undone.append(prompts.pop())
            predictor.undo()
        elif what == "redo" and undone:
            prompts.append(undone.pop())
            predictor.redo()
        elif what == "interrupt":
            for known in predictor._tracker.objects.values():
                for chain in known.chains.values():
                    chain.close()
    return predictor, prompts


def assert_equal(found: Result, expected: Result) -> None:
    assert found.is_complete and expected.is_complete
    assert {i: visited(found, i) for i in found.slices} == {
        i: visited(expected, i) for i in expected.slices
    }
    for object_id, masks in expected.slices.items():
        for index, mask in masks.items():
            mine = found.slices[object_id][index].segmented
            assert np.array_equal(mine.logits, mask.segmented.logits), index
            assert mine.confidence == mask.confidence
            assert mine.memory_frames == mask.memory_frames


@settings(deadline=None, max_examples=120)
@given(story=stories)
def test_a_run_with_a_rule_depends_on_prompts_alone(story: Story) -> None:
    """Boxes only: a correction reads what was found before it, which a rule may have left out."""
    story = replace(story, deeds=[deed for deed in story.deeds if deed[0] != "correct"])
    predictor, prompts = play(story)
    fresh = story.predictor()
    for object_id, prompt in prompts:
        fresh.add(prompt, object_id=object_id)
    assert_equal(predictor.propagate(stop=story.rule), fresh.propagate(stop=story.rule))


@settings(deadline=None, max_examples=120)
@given(story=stories)
def test_what_a_rule_leaves_is_what_a_run_without_it_gives_up_to_the_end(story: Story) -> None:
    predictor, prompts = play(story)
    cut, whole = predictor.propagate(stop=story.rule), predictor.propagate(stop=None)
    assert visited(whole) == list(range(len(story.worth)))
    for index, mask in cut.slices[1].items():
        assert np.array_equal(mask.segmented.logits, whole.slices[1][index].segmented.logits)
    prompted = {prompt.slice for _, prompt in prompts}
    assert visited(cut) == expected_slices(whole, prompted, story.rule)
    assert_equal(predictor.propagate(stop=story.rule), cut)


def expected_slices(whole: Result, prompted: set[int], rule: StopRule) -> list[int]:
    """The rule restated: outwards from the last prompts, until so many in a row count."""
    found, depth = whole.slices[1], len(whole.shapes)
    reached = set(range(min(prompted), max(prompted) + 1))
    for way in (range(max(prompted) + 1, depth), range(min(prompted) - 1, -1, -1)):
        in_a_row = 0
        for index in way:
            reached.add(index)
            in_a_row = in_a_row + 1 if found[index].confidence < max(rule.below, 1e-9) else 0
            if in_a_row == rule.after:
                break
    return sorted(reached)


def test_slices_in_a_row_are_counted_from_their_parts() -> None:
    """The two ways of asking, about what is known and about what has just come, agree."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        depth = int(rng.integers(2, 12))
        found = {i: Seen(float(rng.choice([SURE, UNSURE, ABSENT]))) for i in range(depth)}
        prompted = {int(i) for i in rng.integers(0, depth, rng.integers(1, 3))}
        rule = StopRule(below=float(rng.choice([0, 0.5])), after=int(rng.integers(1, 4)))
        frames = [i for i in range(min(prompted) + 1, depth) if i not in prompted]
        cut = rule.cut(frames, found, 1, prompted)
        walked: list[int] = []
        for index in frames:
            walked.append(index)
            if rule.is_over([(i, found[i]) for i in reversed(walked)], 1, prompted):
                break
        assert walked == cut


@dataclass(frozen=True)
class Seen:
    worth: float
    is_finite: bool = True

    @property
    def confidence(self) -> float:
        return self.worth

    @property
    def object_score(self) -> float:
        return 5.0 if self.worth else -5.0
