"""What is taken back leaves no trace in a session: any sequence of verbs, and a fresh session given the survivors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.serve.session import InteractiveSession
from runtime.serve.worker import Worker
from runtime.steps.encodings import Encodings
from tests.fakes import TELLING, fake_model

SHAPE = (5, 7, 6)
IMAGE = np.random.default_rng(1).integers(0, 255, SHAPE).astype(np.uint8)
Verb = tuple[Any, ...]

AXIS, SIGN, RUNS = st.integers(0, 2), st.booleans(), st.sampled_from([True, True, True, False])
AT = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))
PROMPT = st.one_of(
    st.tuples(st.just("point"), AT, SIGN, RUNS),
    st.tuples(st.just("box"), AXIS, AT, SIGN, RUNS),
    st.tuples(st.just("thick"), AT, SIGN, RUNS),
    st.tuples(st.just("scribble"), AXIS, AT, SIGN, RUNS),
    st.tuples(st.just("lasso"), AXIS, AT, SIGN, RUNS),
    st.tuples(st.just("seed"), AT, RUNS),
)
OTHER = st.sampled_from([("undo",), ("undo",), ("redo",), ("predict",), ("reset",), ("object",)])
VERBS = st.lists(PROMPT | PROMPT | OTHER, min_size=1, max_size=10)


def span(at: int, size: int) -> list[int]:
    """A few voxels on from one."""
    return [at, min(at + 3, size)]


def plane(axis: int, at: tuple[int, int, int]) -> list[list[int]]:
    return [[n, n + 1] if i == axis else span(n, SHAPE[i]) for i, n in enumerate(at)]


def give(session: InteractiveSession, name: str, *args: Any) -> None:
    *args, runs = args
    if name == "point":
        session.add_point_interaction(*args, runs)
    elif name == "box":
        axis, at, sign = args
        session.add_bbox_interaction(plane(axis, at), sign, runs)
    elif name == "thick":
        at, sign = args
        session.add_bbox_interaction(plane(3, at), sign, runs)
    elif name == "seed":
        (at,) = args
        mask = np.zeros(SHAPE, bool)
        mask[at[0] :, at[1] : at[1] + 3, at[2] : at[2] + 3] = True
        session.add_initial_seg_interaction(mask, runs)
    else:
        axis, at, sign = args
        box = plane(axis, at)
        crop = np.ones([b - a for a, b in box], np.uint8)
        ask: Callable[..., object] = getattr(session, f"add_{name}_interaction")
        ask(crop, sign, runs, interaction_bbox=box)


def picture(session: InteractiveSession) -> tuple[Any, ...]:
    """All that can be seen of the selected object once what is known is shown."""
    session.collect()
    (info,) = [each for each in session.objects if each.id == session.selected]
    confidence = session.confidence.tobytes()
    assert info.num_voxels == session.target_buffer.sum()
    return (
        session.target_buffer.tobytes(),
        confidence,
        info.axis,
        info.interactions,
        info.spans,
        info.is_complete,
    )


class Sessions:
    """Sessions that share what costs time."""

    def __init__(self) -> None:
        self.model, _ = fake_model(TELLING)
        self.worker, self.encodings = Worker(), Encodings(self.model)

    @contextmanager
    def fresh(self) -> Iterator[InteractiveSession]:
        with InteractiveSession(self.model, self.encodings, self.worker, 1000.0) as session:
            session.set_image(IMAGE)
            yield session


SESSIONS = Sessions()
CLICK, BOX = ("point", (2, 3, 3), True, True), ("box", 1, (1, 3, 1), True, True)
# It lies where nothing is drawn and asks the network nothing, but that the object be followed.
IDLE = ("box", 0, (0, 0, 0), False, True)


@settings(max_examples=60, deadline=None)
@example(verbs=[CLICK, BOX, ("undo",), ("undo",), ("redo",), ("redo",)])
@example(verbs=[BOX, ("seed", (1, 1, 1), True), ("undo",), ("lasso", 0, (1, 1, 1), True, True)])
@example(verbs=[("point", (2, 3, 3), True, False), CLICK, ("undo",), ("predict",), ("undo",)])
@example(
    verbs=[
        *(("thick", (0, 6, 0), True, True), ("point", (0, 0, 0), False, False)),
        *(IDLE, ("undo",), ("point", (0, 1, 0), False, True)),
    ]
)
@given(verbs=VERBS)
def test_what_is_taken_back_leaves_no_trace(verbs: list[Verb]) -> None:
    with SESSIONS.fresh() as session:
        events: dict[int, list[Verb]] = {1: []}
        past: dict[int, list[list[Verb]]] = {1: []}
        future: dict[int, list[list[Verb]]] = {1: []}
        for name, *args in verbs:
            now = session.selected
            if name == "undo":
                assert session.can_undo == bool(past[now])
                session.undo()
                if past[now]:
                    future[now].append(events[now])
                    events[now] = past[now].pop()
            elif name == "redo":
                assert session.can_redo == bool(future[now])
                session.redo()
                if future[now]:
                    past[now].append(events[now])
                    events[now] = future[now].pop()
            elif name == "predict":
                session.predict()
                events[now] = [*events[now], ("predict",)]
            elif name == "reset":
                session.reset_interactions()
                events[now], past[now], future[now] = [], [], []
                assert not session.target_buffer.any()
            elif name == "object":
                made = session.add_object()
                session.select_object(made)
                events[made], past[made], future[made] = [], [], []
            else:
                give(session, name, *args)
                past[now].append(events[now])
                events[now] = [*events[now], (name, *args)]
                future[now] = []
        for object_id, survivors in events.items():
            session.select_object(object_id)
            with SESSIONS.fresh() as replay:
                for name, *args in survivors:
                    if name == "predict":
                        replay.predict()
                    else:
                        give(replay, name, *args)
                assert picture(session) == picture(replay)
                session.predict()
                replay.predict()
                assert picture(session) == picture(replay)
