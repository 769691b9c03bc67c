"""A session's verbs on a model that computes nothing: what they ask, change, tell, refuse, and take back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from runtime.bundle.defaults import Defaults
from runtime.errors import (
    InputError,
    NoImage,
    NoObject,
    OutOfMemory,
    PromptError,
    SessionClosed,
    VolumeError,
)
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from runtime.serve import image as image_module
from runtime.serve import objects
from runtime.serve.session import InteractiveSession
from tests.fakes import TELLING, fake_model

SHAPE = (9, 16, 12)
IMAGE = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


@pytest.fixture
def session() -> Iterator[InteractiveSession]:
    made = InteractiveSession(fake_model(TELLING)[0])
    made.set_image(IMAGE[None], {"spacing": [2.0, 1.0, 1.0]})
    yield made
    made.close()


def prompts(session: InteractiveSession) -> dict[int, tuple[Prompt, ...]]:
    """What the network was asked for the selected object, by plane."""
    chosen = session._state.chosen()
    predictor = chosen.predictor(chosen.axis)
    return predictor.prompts() if predictor.object_ids else {}


def thin(axis: int, index: int, y: tuple[int, int], x: tuple[int, int]) -> list[list[int]]:
    box = [list(y), list(x)]
    box.insert(axis, [index, index + 1])
    return box


def inside(box: list[list[int]]) -> np.ndarray:
    return np.ones([stop - start for start, stop in box], np.uint8)


def unpadded(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of a plane that may have been padded to be square in mm, in which nothing may lie."""
    part = mask[: shape[0], : shape[1]]
    assert part.sum() == mask.sum()
    return part


def changes(before: np.ndarray, after: np.ndarray, told: list[list[int]] | None) -> bool:
    """Whether all that differs lies in the box that was told."""
    outside = before != after
    if told is not None:
        outside[tuple(slice(*span) for span in told)] = False
    return not outside.any()


def test_capabilities_are_what_the_clients_index(session: InteractiveSession) -> None:
    told = session.capabilities
    assert {
        *("supported_interactions", "channel_mapping", "num_interaction_channels"),
        *("supports_initial_label", "supports_zero_shot_label_refinement", "interaction_decay"),
        *("preferred_scribble_thickness", "inference_session_version", "license"),
        *("supports_undo", "do_autozoom", "patch_size"),
    } <= told.keys()
    assert set(told["supported_interactions"]) == {
        "points",
        "bbox2d",
        "bbox3d",
        "scribble",
        "lasso",
    }
    assert len(told["preferred_scribble_thickness"]) == 3
    assert session.original_image_shape == (1, *SHAPE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_is_one_of_its_plane(session: InteractiveSession, axis: int) -> None:
    box = thin(axis, 4, (2, 9), (3, 8))
    told = session.add_bbox_interaction([[a + 0.3, b + 0.3] for a, b in box], True)
    assert session.axis == axis
    assert prompts(session) == {4: (Box(slice=4, y=(2, 9), x=(3, 8)),)}
    assert session.is_complete and session.ran_prediction
    assert np.isfinite(session.confidence).all() and len(session.confidence) == SHAPE[axis]
    assert told is not None
    assert changes(np.zeros(SHAPE, np.uint8), session.target_buffer, told)
    held = np.argwhere(session.target_buffer)
    assert told == [[int(a), int(b) + 1] for a, b in zip(held.min(0), held.max(0), strict=True)]


def test_a_thick_box_is_its_middle_slice_and_a_range(session: InteractiveSession) -> None:
    session.add_bbox_interaction([[2, 7], [2, 9], [3, 8]], True)
    assert prompts(session) == {4: (Box(slice=4, y=(2, 9), x=(3, 8)),)}
    assert [*np.flatnonzero(np.isfinite(session.confidence))] == [2, 3, 4, 5, 6]
    assert [*np.flatnonzero(session.target_buffer.any((1, 2)))] == [2, 3, 4, 5, 6]
    session.add_point_interaction((8, 5, 5), True)  # who clicks outside widens it
    assert [*np.flatnonzero(np.isfinite(session.confidence))] == [2, 3, 4, 5, 6, 7, 8]
    session.undo()
    assert [*np.flatnonzero(session.target_buffer.any((1, 2)))] == [2, 3, 4, 5, 6]


def test_points_stay_in_the_objects_planes(session: InteractiveSession) -> None:
    session.add_point_interaction((4, 5.4, 6.6), True)
    assert session.axis == 0
    assert prompts(session) == {4: (Point(slice=4, y=5, x=7),)}
    session.reset_interactions()
    session.add_bbox_interaction(thin(2, 6, (2, 7), (3, 12)), True)
    session.add_point_interaction((4, 5, 7), False)
    assert session.axis == 2
    assert prompts(session)[7] == (Point(slice=7, y=4, x=5, positive=False),)


def test_a_box_moves_an_object_of_points_to_its_plane(session: InteractiveSession) -> None:
    session.add_point_interaction((4, 5, 6), True)
    session.add_point_interaction((4, 9, 9), False)
    before = session.target_buffer.copy()
    session.add_bbox_interaction(thin(1, 7, (1, 8), (2, 9)), True)
    assert session.axis == 1
    assert prompts(session) == {7: (Box(slice=7, y=(1, 8), x=(2, 9)),)}
    session.undo()
    assert session.axis == 0
    np.testing.assert_array_equal(session.target_buffer, before)
    assert len(prompts(session)[4]) == 2
    box = thin(1, 7, (1, 8), (2, 9))
    session.add_lasso_interaction(inside(box), True, interaction_bbox=box)
    assert session.axis == 1 and 7 in prompts(session)
    wanted = before[:, 7].astype(bool)
    wanted[1:8, 2:9] = True
    np.testing.assert_array_equal(session.target_buffer[:, 7], wanted)
    session.undo()
    session.add_bbox_interaction(thin(1, 5, (1, 8), (2, 9)), True)
    assert prompts(session) == {
        5: (Box(slice=5, y=(1, 8), x=(2, 9)), Point(slice=5, y=4, x=6))  # which lies in its plane
    }
    session.undo()
    session.redo()
    assert session.axis == 1 and set(prompts(session)) == {5}


def test_a_scribble_across_the_objects_planes_is_points_where_they_are_wrong(
    session: InteractiveSession,
) -> None:
    session.add_bbox_interaction(thin(0, 4, (2, 9), (3, 8)), True)
    drawn = session.target_buffer[:, 7].astype(bool)
    line = np.zeros((9, 1, 10), np.uint8)
    line[5] = line[:, :, 4] = 1
    for sign in (True, False):
        session.add_scribble_interaction(line, sign, interaction_bbox=[[0, 9], [7, 8], [1, 11]])
        assert session.axis == 0
        asked = [p for of in prompts(session).values() for p in of if isinstance(p, Point)]
        assert 1 <= len(asked) <= 8
        assert all(p.positive == sign and p.y == 7 for p in asked)
        assert all(drawn[p.slice, int(p.x)] != sign for p in asked)
        session.undo()


def test_a_lasso_across_the_objects_planes_takes_it_there(session: InteractiveSession) -> None:
    session.add_bbox_interaction(thin(0, 4, (2, 9), (3, 8)), True)
    before = session.target_buffer.copy()
    _, x = np.nonzero(before[:, 7])
    more = thin(1, 7, (0, 9), (int(x.max()) - 1, int(x.max()) + 4))
    session.add_lasso_interaction(inside(more), True, interaction_bbox=more)
    assert session.axis == 1
    wanted = before[:, 7].astype(bool)
    wanted[:, int(x.max()) - 1 : int(x.max()) + 4] = True
    np.testing.assert_array_equal(session.target_buffer[:, 7], wanted)
    asked = prompts(session)
    assert 2 <= len(asked) <= 9 and all(isinstance(p, Mask) for of in asked.values() for p in of)
    for index, of in asked.items():
        if index != 7 and isinstance(mask := of[0], Mask):
            np.testing.assert_array_equal(unpadded(mask.mask, (9, 12)), before[:, index])
    session.undo()
    np.testing.assert_array_equal(session.target_buffer, before)
    within = thin(1, 7, (2, 5), (int(x.min()), int(x.max())))
    session.add_lasso_interaction(inside(within), True, interaction_bbox=within)
    assert session.axis == 1 and set(prompts(session)) == {7}
    session.add_bbox_interaction(thin(0, 3, (2, 9), (3, 8)), True)
    assert session.axis == 0 and set(prompts(session)) == {
        3
    }  # and of the first box nothing is left
    for _ in range(3):
        session.undo()
    assert not session.target_buffer.any() and not session.can_undo


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_scribble_becomes_points_on_its_middle_line(
    session: InteractiveSession, axis: int, is_whole: bool
) -> None:
    size = [n for i, n in enumerate(SHAPE) if i != axis]
    plane = np.zeros(size, np.uint8)
    plane[3:6, 1:-1] = 1
    if is_whole:
        image = np.zeros(SHAPE, np.uint8)
        np.moveaxis(image, axis, 0)[5] = plane
        session.add_scribble_interaction(image, True)
    else:
        box = thin(axis, 5, (0, size[0]), (0, size[1]))
        session.add_scribble_interaction(np.expand_dims(plane, axis), True, interaction_bbox=box)
    assert session.axis == axis
    asked = prompts(session)
    assert [*asked] == [5]
    points = [p for p in asked[5] if isinstance(p, Point)]
    assert 3 <= len(points) == len(asked[5]) <= 16
    assert all(p.positive and plane[int(p.y), int(p.x)] for p in points)
    assert all(p.y == 4 for p in points)
    assert {p.x for p in points} >= {2, size[1] - 3}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lasso_is_what_it_encloses(session: InteractiveSession, axis: int) -> None:
    box = thin(axis, 5, (1, 8), (2, 9))
    line = inside(box)
    np.moveaxis(line, axis, 0)[0, 1:-1, 1:-1] = 0
    session.add_lasso_interaction(line, True, interaction_bbox=box)
    assert session.axis == axis
    (asked,) = prompts(session)[5]
    assert isinstance(asked, Mask)
    wanted = np.zeros([n for i, n in enumerate(SHAPE) if i != axis], bool)
    wanted[1:8, 2:9] = True
    np.testing.assert_array_equal(unpadded(asked.mask, wanted.shape), wanted)
    np.testing.assert_array_equal(np.moveaxis(session.target_buffer, axis, 0)[5], wanted)
    more = thin(axis, 5, (1, 3), (8, 12 if axis < 2 else 14))
    session.add_lasso_interaction(inside(more), True, interaction_bbox=more)
    (asked,) = prompts(session)[5]
    wanted[1:3, 8 : more[2 if axis < 2 else 1][1]] = True
    np.testing.assert_array_equal(unpadded(asked.mask, wanted.shape), wanted)


def test_a_lasso_within_what_is_drawn_says_that_the_rest_is_not_the_object(
    session: InteractiveSession,
) -> None:
    for y, x in (((1, 12), (1, 11)), ((3, 8), (2, 9))):
        box = thin(0, 5, y, x)
        session.add_lasso_interaction(inside(box), True, interaction_bbox=box)
        wanted = np.zeros(SHAPE[1:], bool)
        wanted[slice(*y), slice(*x)] = True
        np.testing.assert_array_equal(session.target_buffer[5], wanted)


def test_points_and_the_box_of_their_plane_are_answered_as_one() -> None:
    model, backend = fake_model(TELLING)
    with InteractiveSession(model) as session:
        session.set_image(IMAGE)
        session.add_bbox_interaction(thin(0, 4, (2, 9), (3, 8)), True)
        for number, sign in enumerate((True, False), 1):
            backend.calls.clear()
            session.add_point_interaction((4, 5, 5), sign)
            asked = next(call.inputs for call in backend.calls if call.graph == "mask_decoder")
            assert asked["point_labels"].tolist() == [[2, 3, 1, 0][: 2 + number]]
            assert not asked["has_mask_input"].any()
        assert len(prompts(session)[4]) == 3
        session.undo()
        assert len(prompts(session)[4]) == 2
        session.add_point_interaction((6, 5, 5), True)
        asked = [call.inputs for call in backend.calls if call.graph == "mask_decoder"]
        assert any(each["has_mask_input"].any() for each in asked)  # what was tracked is corrected


def test_what_takes_away_is_taken_away_and_no_more(session: InteractiveSession) -> None:
    session.add_bbox_interaction(thin(0, 4, (2, 9), (3, 8)), True)
    drawn = session.target_buffer[4].astype(bool)
    box = thin(0, 4, (0, 16), (0, 6))
    for verb in ("lasso", "bbox"):
        if verb == "lasso":
            session.add_lasso_interaction(inside(box), False, interaction_bbox=box)
        else:
            session.add_bbox_interaction(box, False)
        left = drawn.copy()
        left[:, :6] = False
        assert left.any()
        np.testing.assert_array_equal(session.target_buffer[4].astype(bool), left)
        (given,) = prompts(session)[4]
        assert isinstance(given, Mask)
        np.testing.assert_array_equal(given.mask, left)
        session.undo()
        np.testing.assert_array_equal(session.target_buffer[4].astype(bool), drawn)


def test_all_of_a_slice_may_be_taken_away(session: InteractiveSession) -> None:
    session.add_bbox_interaction(thin(0, 4, (2, 9), (3, 8)), True)
    box = thin(0, 4, (0, 16), (0, 16))
    session.add_lasso_interaction(inside(box), False, interaction_bbox=box)
    assert not session.target_buffer[4].any()
    while not session.is_complete:
        session.predict()
    assert not session.target_buffer[4].any()
    session.undo()
    assert session.target_buffer[4].any()


def test_a_negative_prompt_where_nothing_is_drawn_changes_nothing(
    session: InteractiveSession,
) -> None:
    box = thin(0, 4, (0, 3), (0, 3))
    for number, ask in enumerate(
        [
            lambda: session.add_point_interaction((4, 1, 1), False),
            lambda: session.add_bbox_interaction(box, False),
            lambda: session.add_lasso_interaction(inside(box), False, interaction_bbox=box),
            lambda: session.add_scribble_interaction(inside(box), False, interaction_bbox=box),
        ],
        1,
    ):
        assert ask() is None
        assert prompts(session) == {}
        assert len(session.objects[0].interactions) == number
    assert session.predict() is None
    for _ in range(4):
        assert session.can_undo
        session.undo()
    assert not session.can_undo
    assert session.undo() is None and not session.ran_prediction


def test_a_seed_is_drawn_as_it_is_and_prompts_a_few_slices(session: InteractiveSession) -> None:
    session.add_bbox_interaction(thin(1, 4, (2, 9), (3, 8)), True)
    before = session.target_buffer.copy()
    seed = np.zeros(SHAPE, np.uint8)
    seed[1:8, 3:7, 2:9] = 3
    seed[4, 2:8] = 3
    told = session.add_initial_seg_interaction(seed)
    np.testing.assert_array_equal(session.target_buffer, seed > 0)
    assert changes(before, session.target_buffer, told)
    assert session.axis == 0 and not session.is_complete
    assert {1, 4, 7} <= prompts(session).keys() and len(prompts(session)) <= 8
    assert [each.kind for each in session.objects[0].interactions] == ["seed"]
    session.predict()
    assert session.is_complete
    np.testing.assert_array_equal(session.target_buffer[4], seed[4] > 0)
    after = session.target_buffer.copy()
    session.undo()
    np.testing.assert_array_equal(session.target_buffer, before)
    assert session.axis == 1
    session.redo()
    np.testing.assert_array_equal(session.target_buffer, after)
    session.add_initial_seg_interaction(np.zeros(SHAPE, bool), run_prediction=True)
    assert not session.target_buffer.any() and session.is_complete


def test_a_prompt_without_prediction_shows_with_the_next_answer(
    session: InteractiveSession,
) -> None:
    assert session.add_point_interaction((4, 5, 5), True, run_prediction=False) is None
    assert not session.ran_prediction and not session.target_buffer.any()
    assert session.add_point_interaction((4, 9, 9), True, run_prediction=False) is None
    assert len(prompts(session)[4]) == 2 and not session.is_complete
    told = session.predict()
    assert told is not None and session.ran_prediction and session.is_complete
    assert changes(np.zeros(SHAPE, np.uint8), session.target_buffer, told)
    assert session.predict() is None and session.ran_prediction
    for _ in range(2):
        session.undo()
    assert not session.target_buffer.any() and prompts(session) == {}


REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("add_point_interaction", ((9, 0, 0), True), {}),
    ("add_point_interaction", ((0, float("nan"), 0), True), {}),
    ("add_point_interaction", ("abc", True), {}),
    ("add_bbox_interaction", ([[0, 1], [0, 1]], True), {}),
    ("add_bbox_interaction", ([[0, 1], [0, None], [0, 1]], True), {}),
    ("add_scribble_interaction", (np.zeros(SHAPE, np.uint8), True), {}),
    ("add_scribble_interaction", (np.ones((1, 3, 3), np.uint8), True), {}),
    ("add_scribble_interaction", (np.ones((3, 3), np.uint8), True), {"interaction_bbox": None}),
    ("add_lasso_interaction", (np.ones((1, 3, 3)), True), {"interaction_bbox": [[0, 1], [0, 3], [0, 4]]}),
    ("add_lasso_interaction", (np.ones((1, 3, 3)), True), {"interaction_bbox": [[9, 10], [0, 3], [0, 3]]}),
    ("add_lasso_interaction", (np.full((1, 3, 3), "a"), True), {"interaction_bbox": [[0, 1], [0, 3], [0, 3]]}),
    ("add_lasso_interaction", (np.full((1, 3, 3), np.nan), True), {"interaction_bbox": [[0, 1], [0, 3], [0, 3]]}),
    ("add_initial_seg_interaction", (np.ones((9, 16, 13), np.uint8),), {}),
    ("add_initial_seg_interaction", ([1, 2],), {}),
    ("add_initial_seg_interaction", (np.ma.masked_equal(np.ones(SHAPE), 1),), {}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "args", "more"), REFUSED)
def test_what_does_not_fit_is_refused_and_is_no_step(
    session: InteractiveSession, verb: str, args: tuple[Any, ...], more: dict[str, Any]
) -> None:
    session.add_point_interaction((4, 5, 5), True)
    before, known = session.target_buffer.copy(), session.objects
    with pytest.raises(PromptError):
        getattr(session, verb)(*args, **more)
    assert session.objects == known
    np.testing.assert_array_equal(session.target_buffer, before)
    assert len(session._state.chosen().history.past) == 1


def test_a_crop_that_reaches_beyond_the_image_is_cut(session: InteractiveSession) -> None:
    session.add_lasso_interaction(
        np.ones((1, 6, 5), np.uint8), True, interaction_bbox=[[4, 5], [12.4, 18.4], [-2, 3]]
    )
    assert session.target_buffer[4, 12:, :3].all() and session.target_buffer[4].sum() == 12


def test_without_an_image_there_is_nothing_to_ask() -> None:
    with InteractiveSession(fake_model()[0]) as session:
        for ask in (
            lambda: session.add_point_interaction((0, 0, 0), True),
            lambda: session.add_bbox_interaction([[0, 1]] * 3, True),
            lambda: session.add_initial_seg_interaction(np.ones((1, 1, 1))),
            session.predict, session.undo, session.redo, session.collect,
            lambda: session.set_target_buffer(np.zeros((1, 1, 1), np.uint8)),
            lambda: session.original_image_shape,
            lambda: session.target_buffer,
            lambda: session.progress,
            session.add_object,
        ):  # fmt: skip
            with pytest.raises(NoImage):
                ask()
        session.reset_interactions()
        session.cancel()
        assert session.objects == [] and not session.can_undo and not session.can_redo


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 3, 4, 5), np.int16), np.zeros((3, 4), np.int16), np.zeros((1, 1, 3, 4, 5)),
        np.zeros((3, 4, 5), complex), np.zeros((3, 4, 5), object), np.zeros((0, 4, 5)),
        np.zeros((3, 4, 5), "M8[s]"), [[[1]]], None,
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_and_the_one_before_stays(
    session: InteractiveSession, image: Any
) -> None:
    session.add_point_interaction((4, 5, 5), True)
    before = session.target_buffer.copy()
    with pytest.raises(VolumeError):
        session.set_image(image)
    np.testing.assert_array_equal(session.target_buffer, before)
    with pytest.raises(VolumeError):
        session.set_image(IMAGE, {"spacing": [1, 2]})
    with pytest.raises(VolumeError):
        session.set_image(IMAGE, {"spacing": [1, 0, 1]})
    with pytest.raises(VolumeError):
        session.set_image(IMAGE, {"modality": 7})
    for properties in (5, [1, 2, 3], "spacing"):
        with pytest.raises(VolumeError, match="wanted a dict"):
            session.set_image(IMAGE, properties)  # type: ignore[arg-type]
    np.testing.assert_array_equal(session.target_buffer, before)


@pytest.mark.parametrize("spacing", [(1e308, 1e308, 1e308), (1.0, 1e-9, 1.0), (1e-12, 1e12, 1.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_a_spacing_that_no_scanner_has_are_not_padded(
    axis: int, spacing: tuple[float, ...], session: InteractiveSession
) -> None:
    session.set_image(IMAGE, {"spacing": spacing})
    told = session.add_bbox_interaction(thin(axis, 4, (2, 9), (3, 8)), True)
    assert told is not None and session.is_complete
    image = session._state.need_image()
    assert np.prod(image.padded_shape(axis), dtype=float) <= image_module.MAX_PADDED


def test_autozoom_is_on_where_the_bundle_has_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = fake_model(TELLING)
    monkeypatch.setattr(model, "defaults", Defaults(zoom=2.0, stop={"below": 0.0, "after": 2}))
    image = np.random.default_rng(0).integers(0, 255, (5, 96, 96)).astype(np.uint8)
    box = thin(0, 2, (40, 50), (40, 50))
    shown = []
    with InteractiveSession(model) as session:
        session.set_image(image)
        for is_on in (True, False):
            session.set_do_autozoom(is_on)
            assert session.do_autozoom == session.capabilities["do_autozoom"] == is_on
            session.reset_interactions()
            session.add_bbox_interaction(box, True)
            chosen = session._state.chosen()
            crop = chosen.predictor(0)._tracker.objects[1].crop  # type: ignore[union-attr]
            shown.append(crop is not None)
    assert shown == [True, False]


def test_an_object_is_followed_to_its_end_where_the_bundle_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(inputs: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        is_bright = inputs["high_res_feats_0"][:, 0, 0, 0] > 0
        return {
            **TELLING["mask_decoder"](inputs),
            "object_score_logits": np.where(is_bright, 5, -5).astype(np.float32),
        }

    def encode(inputs: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return {
            **TELLING["image_encoder"](inputs),
            "high_res_feats_0": inputs["image"][:, :1, :1, :1],
        }

    model, _ = fake_model({**TELLING, "mask_decoder": decode, "image_encoder": encode})
    monkeypatch.setattr(model, "defaults", Defaults(stop={"below": 0.0, "after": 2}))
    image = np.full((12, 16, 16), 255, np.uint8)
    image[:2] = image[7:] = 2
    with InteractiveSession(model) as session:
        session.set_image(image)
        session.add_point_interaction((4, 5, 5), True)
        assert [*np.flatnonzero(np.isfinite(session.confidence))] == [*range(9)]
        assert session.is_complete
        session.reset_interactions()
        session.add_bbox_interaction([[1, 11], [2, 9], [3, 8]], True)
        assert [*np.flatnonzero(np.isfinite(session.confidence))] == [*range(1, 11)]


@pytest.mark.parametrize("shape", [(1, 1, 16, 12), (1, 16, 1, 12), (1, 16, 12, 1)])
def test_a_picture_has_one_plane(shape: tuple[int, ...]) -> None:
    with InteractiveSession(fake_model(TELLING)[0]) as session:
        session.set_image(np.arange(192, dtype=np.float32).reshape(shape))
        axis = shape[1:].index(1)
        at = [5, 5]
        at.insert(axis, 0)
        assert session.add_point_interaction(at, True) is not None
        assert session.axis == axis and session.is_complete
        session.reset_interactions()
        session.add_bbox_interaction(thin(axis, 0, (2, 9), (3, 8)), True)
        assert session.axis == axis and len(session.confidence) == 1


def test_buffers_are_taken_as_they_are(session: InteractiveSession) -> None:
    session.add_point_interaction((4, 5, 5), True)
    mask = session.target_buffer.copy()
    for dtype in (bool, np.int8, np.uint16, np.int64):
        buffer = np.zeros((*SHAPE, 2), dtype)[..., 0]
        session.set_target_buffer(buffer)
        assert session.target_buffer is buffer and not buffer.any()
        told = session.collect()
        np.testing.assert_array_equal(buffer, mask.astype(dtype))
        assert told is not None and changes(np.zeros(SHAPE, dtype), buffer, told)
    frozen = np.zeros(SHAPE, np.uint8)
    frozen.flags.writeable = False
    for wrong in (frozen, np.zeros((9, 16, 13), np.uint8), np.zeros(SHAPE, np.float32), None):
        with pytest.raises(InputError):
            session.set_target_buffer(wrong)  # type: ignore[arg-type]
    assert session.target_buffer is buffer


def test_reset_and_a_new_image_clear_history_and_keep_encodings() -> None:
    model, backend = fake_model(TELLING)
    with InteractiveSession(model) as session:
        for _ in range(3):
            session.set_image(IMAGE.copy())
            assert not session.can_undo and session.objects[0].interactions == ()
            buffer = np.ones(SHAPE, np.uint8)
            session.set_target_buffer(buffer)
            session.add_point_interaction((4, 5, 5), True)
            session.reset_interactions()
            assert not session.can_undo and not buffer.any()
            session.add_point_interaction((4, 5, 5), True)
        assert [call.graph for call in backend.calls].count("image_encoder") == SHAPE[0]


def test_where_crops_are_shown_one_whole_slice_is_encoded_ahead_and_every_graph_is_loaded() -> None:
    model, backend = fake_model(TELLING)
    model.defaults = Defaults(zoom=3.0)
    with InteractiveSession(model) as session:
        session.set_image(IMAGE)
        assert session._state._ahead is not None and session._state._ahead.wait(10)
        assert [call.graph for call in backend.calls] == ["image_encoder"]
        assert model._engines.keys() == {*model.numbers.graphs}
        assert (session.progress.encoded, session.progress.to_encode) == (1, 1)
        session.set_do_autozoom(True)  # as it was
        session.set_do_autozoom(False)
        assert session._state._ahead.wait(10)
        assert [call.graph for call in backend.calls] == ["image_encoder"] * SHAPE[0]
        assert (session.progress.encoded, session.progress.to_encode) == (SHAPE[0], SHAPE[0])


def test_a_box_is_answered_after_one_encoding_where_crops_are_shown() -> None:
    model, backend = fake_model(TELLING)
    model.defaults = Defaults(zoom=3.0)
    with InteractiveSession(model) as session:
        session.set_image(IMAGE)
        assert session._state._ahead is not None and session._state._ahead.wait(10)
        backend.calls.clear()
        session.add_bbox_interaction(thin(0, 2, (4, 7), (4, 7)), True, run_prediction=False)
        graphs = [call.graph for call in backend.calls]
        assert graphs[:2] == ["image_encoder", "mask_decoder"]


def test_steps_beyond_what_may_be_kept_cannot_be_taken_back(
    session: InteractiveSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MOST_FOUND", 0)
    monkeypatch.setattr(objects, "MIN_STEPS", 3)
    session.set_image(IMAGE)
    pictures = []
    for index in (2, 6, 4):
        session.add_point_interaction((index, 5, 5), True)
        pictures.append(session.target_buffer.copy())
    session.add_bbox_interaction(thin(1, 4, (2, 9), (3, 8)), True)
    pictures.append(session.target_buffer.copy())
    session.add_point_interaction((8, 9, 9), False)
    while session.can_undo:
        session.undo()
        np.testing.assert_array_equal(session.target_buffer, pictures.pop())
    assert len(pictures) == 1
    assert set(prompts(session)) == {2, 6}
    for _ in range(3):
        session.redo()
    assert not session.can_redo and session.axis == 1


def test_objects_are_apart(session: InteractiveSession) -> None:
    session.add_point_interaction((4, 5, 5), True)
    first = session.target_buffer.copy()
    other = session.add_object("kidney")
    assert session.selected == 1 and other == 2
    session.select_object(other)
    assert not session.target_buffer.any() and not session.can_undo
    session.add_bbox_interaction(thin(1, 4, (2, 9), (3, 8)), True)
    second = session.target_buffer.copy()
    session.add_point_interaction((8, 9, 9), False)
    session.select_object(1)
    session.undo()
    assert not session.mask_of(1).any()
    session.select_object(2)
    session.undo()
    np.testing.assert_array_equal(session.mask_of(2), second)
    session.select_object(1)
    session.redo()
    np.testing.assert_array_equal(session.mask_of(1), first)
    one, two = session.objects
    assert (one.name, two.name) == ("object 1", "kidney")
    assert (one.axis, two.axis) == (0, 1)
    assert one.num_voxels == first.sum() and two.num_voxels == second.sum()
    with pytest.raises(NoObject, match=r"no object 7; there are: \[1, 2\]"):
        session.select_object(7)
    session.remove_object(1)
    assert session.selected == 2
    session.remove_object(2)
    assert session.selected == 3 and not session.target_buffer.any()


def test_a_closed_session_says_so() -> None:
    session = InteractiveSession(fake_model()[0])
    session.set_image(IMAGE)
    session.close()
    session.close()
    for ask in (session.predict, session.undo, lambda: session.set_image(IMAGE)):
        with pytest.raises(SessionClosed):
            ask()
    session.cancel()


@pytest.mark.parametrize("lowest", [-1000, 1])
def test_an_image_takes_one_byte_a_voxel_beside_the_callers(lowest: int) -> None:
    """Of every kind of window; and a prompt on an encoded slice takes nothing of the volume's size."""
    image = np.random.default_rng(0).integers(lowest, 1000, (40, 256, 256)).astype(np.int16)
    with InteractiveSession(fake_model(TELLING)[0], deadline_s=0.0) as session:
        session.set_image(image[:2])
        session.add_point_interaction((1, 5, 5), True)  # what is made once is there by now
        tracemalloc.start()
        try:
            session.set_image(image[None])
            held, peak = tracemalloc.get_traced_memory()
            assert image.size <= held <= 1.1 * image.size + 3e6
            assert peak <= 1.1 * image.size + 8e6
            session._state._ahead.wait()  # type: ignore[union-attr]
            session.target_buffer  # noqa: B018
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            session.add_point_interaction((20, 99, 99), True)
            session.cancel()
            assert tracemalloc.get_traced_memory()[1] - before < image.size / 2
        finally:
            tracemalloc.stop()


def test_an_image_that_does_not_fit_is_told(
    session: InteractiveSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "apply_window", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(OutOfMemory, match="does not fit into memory"):
        session.set_image(IMAGE)
    with pytest.raises(NoImage):
        session.predict()


def test_what_fails_in_the_background_is_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InteractiveSession(fake_model(TELLING)[0], deadline_s=0.0) as session:
        session.set_image(IMAGE)
        predictor = session._state.chosen().predictor(0)

        def steps(*args: object, **kwargs: object) -> Iterator[None]:
            yield None
            raise ValueError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(predictor, "steps", steps)
            session.add_point_interaction((4, 5, 5), True)
            session._state.chosen().task.wait()  # type: ignore[union-attr]
            session._state.worker.call(session, lambda: None)
            assert "failed after its prompt had been taken: broken" in caplog.text
            assert session.can_undo and session.target_buffer[4].any()
            session.deadline_s = 10.0
            with pytest.raises(ValueError, match="broken"):
                session.predict()
        session.predict()
        assert session.is_complete


@pytest.mark.parametrize("window", [None, "lung", "-600/1500", "percentile"])
def test_an_image_is_seen_through_the_window_that_was_asked_for(window: str | None) -> None:
    asked = {} if window is None else {"window": window}
    with InteractiveSession(fake_model(TELLING)[0], **asked) as session:
        session.set_image(IMAGE, {"modality": "CT"})
        seen = session._state.need_image().pixels
    volume = Volume.from_array(IMAGE, modality="CT")
    np.testing.assert_array_equal(seen, apply_window(volume, window or "auto")[0])


def test_what_is_no_window_is_refused_with_the_image() -> None:
    with InteractiveSession(fake_model(TELLING)[0], window="liver window") as session:
        with pytest.raises(InputError, match=r"found the window 'liver window'; wanted one of"):
            session.set_image(IMAGE)
        with pytest.raises(NoImage):
            session.undo()
