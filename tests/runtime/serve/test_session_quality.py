"""Every verb in every plane with the embedded model on a phantom: the prompted slice is right at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from runtime import load
from runtime.measure.phantom import make_phantom
from runtime.serve.session import InteractiveSession

PHANTOM = make_phantom((32, 96, 96), seed=3)
TRUTH = PHANTOM.labels == 1
LEAST = 0.8


@pytest.fixture(scope="module")
def session() -> Iterator[InteractiveSession]:
    model = load(None, "ort", threads=1)
    with InteractiveSession(model, deadline_s=0.0) as made:
        made.set_image(PHANTOM.pixels.astype(np.int16)[None] * 5 - 300)
        yield made
    model.close()


@pytest.fixture(autouse=True)
def anew(session: InteractiveSession) -> Iterator[None]:
    yield
    session.cancel()
    session.reset_interactions()


def plane(axis: int) -> tuple[int, np.ndarray]:
    """The plane across an axis on which the object is largest, and the object there."""
    index = int(np.moveaxis(TRUTH, axis, 0).sum((1, 2)).argmax())
    return index, np.moveaxis(TRUTH, axis, 0)[index]


def tight(axis: int) -> list[list[int]]:
    index, inside = plane(axis)
    box = [[int(at.min()), int(at.max()) + 1] for at in np.nonzero(inside)]
    box.insert(axis, [index, index + 1])
    return box


def dice(session: InteractiveSession, axis: int) -> float:
    index, inside = plane(axis)
    found = np.moveaxis(session.target_buffer, axis, 0)[index].astype(bool)
    return float(2 * (found & inside).sum() / (found.sum() + inside.sum()))


def crop(axis: int, mask: np.ndarray) -> np.ndarray:
    box = [slice(*span) for i, span in enumerate(tight(axis)) if i != axis]
    return np.expand_dims(mask[tuple(box)].astype(np.uint8), axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box(session: InteractiveSession, axis: int) -> None:
    assert session.add_bbox_interaction(tight(axis), True) is not None
    assert session.axis == axis
    assert dice(session, axis) >= LEAST


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scribble(session: InteractiveSession, axis: int) -> None:
    _, inside = plane(axis)
    y, x = (int(np.median(at)) for at in np.nonzero(inside))
    line = np.zeros_like(inside)
    line[y - 1 : y + 2] = line[:, x - 1 : x + 2] = True
    reach = (np.hypot(*(np.indices(inside.shape) - np.array([[[y]], [[x]]]))) < 6) & inside
    session.add_scribble_interaction(crop(axis, line & reach), True, interaction_bbox=tight(axis))
    assert session.axis == axis
    assert dice(session, axis) >= LEAST


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lasso_and_what_it_takes_away(session: InteractiveSession, axis: int) -> None:
    _, inside = plane(axis)
    session.add_lasso_interaction(crop(axis, inside), True, interaction_bbox=tight(axis))
    assert dice(session, axis) == 1
    half = inside.copy()
    half[:, : int(np.median(np.nonzero(inside)[1]))] = False
    session.add_lasso_interaction(crop(axis, half), False, interaction_bbox=tight(axis))
    found = np.moveaxis(session.target_buffer, axis, 0)[plane(axis)[0]].astype(bool)
    np.testing.assert_array_equal(found, inside & ~half)


def test_a_click_and_a_box_in_three_dimensions(session: InteractiveSession) -> None:
    index, inside = plane(0)
    y, x = np.argwhere(inside).mean(0)
    session.add_point_interaction((index, y, x), True)
    assert dice(session, 0) >= LEAST
    session.reset_interactions()
    session.add_bbox_interaction([[index - 2, index + 3], *tight(0)[1:]], True)
    assert dice(session, 0) >= LEAST
    while not session.is_complete:
        session.deadline_s = 10.0
        session.predict()
    session.deadline_s = 0.0
    assert {*np.flatnonzero(session.target_buffer.any((1, 2)))} == {*range(index - 2, index + 3)}


def test_a_seed_is_followed_from_its_slices(session: InteractiveSession) -> None:
    seed = TRUTH.copy()
    seed[:10] = seed[22:] = False
    session.add_initial_seg_interaction(seed)
    np.testing.assert_array_equal(session.target_buffer, seed)
    session.deadline_s = 10.0
    while not session.is_complete:
        session.predict()
    session.deadline_s = 0.0
    found = session.target_buffer.astype(bool)
    assert 2 * (found & TRUTH).sum() / (found.sum() + TRUTH.sum()) >= LEAST


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_an_image_of_zeros_and_ones_is_not_empty(session: InteractiveSession, dtype: type) -> None:
    session.set_image(TRUTH[None].astype(dtype))
    session.add_bbox_interaction(tight(0), True)
    assert dice(session, 0) >= LEAST


@pytest.mark.parametrize("verb", ["lasso", "point"])
def test_what_says_that_something_is_too_much_adds_nothing_anywhere(
    session: InteractiveSession, verb: str
) -> None:
    def follow() -> np.ndarray:
        while not session.is_complete:
            session.deadline_s = 10.0
            session.predict()
        session.deadline_s = 0.0
        return session.target_buffer.astype(bool)

    index, inside = plane(0)
    session.add_bbox_interaction(tight(0), True)
    before = follow()
    if verb == "lasso":
        half = inside.copy()
        half[:, : int(np.median(np.nonzero(inside)[1]))] = False
        session.add_lasso_interaction(crop(0, half), False, interaction_bbox=tight(0))
    else:
        y, x = np.argwhere(before[index])[0]
        session.add_point_interaction((index, y, x), False)
    after = follow()
    assert not (after & ~before).any()
    session.undo()
    np.testing.assert_array_equal(session.target_buffer.astype(bool), before)
    session.redo()
    np.testing.assert_array_equal(session.target_buffer.astype(bool), after)
    y, x = np.argwhere(inside).mean(0)
    session.add_point_interaction((index - 2, y, x), True)
    assert (follow() & ~after).any()  # what includes may add again
