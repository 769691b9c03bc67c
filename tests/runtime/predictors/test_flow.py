from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.errors import InputError, PromptError
from runtime.memory import MemoryRules
from runtime.memory.policies import POLICIES
from runtime.predictors import FlowPredictor
from runtime.predictors.result import Result, SliceMask
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, TELLING, Inputs, encode, fake_model

GREYS = (40, 200, 90, 60, 150, 10, 120, 70, 220)
SIZES = ((20, 30), (40, 24), (16, 16), (33, 21), (20, 30), (64, 48), (24, 40), (18, 50), (30, 30))
IMAGES = [np.full(size, grey, np.uint8) for size, grey in zip(SIZES, GREYS, strict=True)]
NUM = len(IMAGES)

Made = tuple[FlowPredictor, FakeBackend]


def make(
    images: Sequence[np.ndarray] = IMAGES, rules: MemoryRules | None = None, **answers: Any
) -> Made:
    model, backend = fake_model({**TELLING, **answers})
    predictor = FlowPredictor(model, rules)
    predictor.set_images(images)
    return predictor, backend


@pytest.fixture
def made() -> Made:
    return make()


@pytest.fixture
def predictor(made: Made) -> FlowPredictor:
    return made[0]


def box(index: int, start: int = 2) -> Box:
    return Box(slice=index, y=(start, 14), x=(start, 14))


def click(index: int) -> Point:
    return Point(slice=index, y=8, x=8)


def asked(backend: FakeBackend, graph: str) -> list[dict[str, np.ndarray]]:
    return [call.inputs for call in backend.calls if call.graph == graph]


def order(masks: Any) -> list[int]:
    return [mask.slice for mask in masks]


def same(left: Result, right: Result) -> bool:
    a, b = (
        {(i, k): mask.segmented.logits for i, of in r.slices.items() for k, mask in of.items()}
        for r in (left, right)
    )
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


@pytest.mark.parametrize("policy", POLICIES)
def test_memories_of_images_carry_no_temporal_code(policy: str) -> None:
    predictor, backend = make(rules=MemoryRules(policy=policy, min_confidence=0.0))
    predictor.add(box(4))
    predictor.add(box(6))
    predictor.propagate()
    steps = asked(backend, "memory_attention")
    assert len(steps) == NUM - 2
    assert max(step["memory_time"].shape[1] for step in steps) > 4
    for step in steps:
        assert (step["memory_time"] == FAKE_NUMBERS.no_time).all()
        assert (step["obj_ptr_pos"] == 0).all()


def test_prompted_images_before_and_behind_are_read_with_their_pointers(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(7))
    predictor.add(box(0))
    predictor.propagate()
    first = asked(backend, "memory_attention")[0]
    assert first["obj_ptrs"].shape[1] == first["memory"].shape[1] == 2


def test_images_of_any_size_give_masks_of_their_own_size(predictor: FlowPredictor) -> None:
    predictor.add(box(3))
    result = predictor.propagate()
    assert result.shapes == SIZES
    for index, size in enumerate(SIZES):
        mask = result.slices[1][index]
        assert mask.shape == size
        assert mask.mask().shape == result.labels_of(index).shape == size
        assert mask.mask().any()


def test_a_stream_goes_on_with_its_own_images_when_others_are_taken(
    predictor: FlowPredictor,
) -> None:
    predictor.add(box(0))
    stream = predictor.stream()
    next(stream)
    predictor.set_images(IMAGES[:1])
    assert [found.mask().shape for found in stream] == [image.shape[:2] for image in IMAGES[1:]]


def test_a_set_of_several_sizes_is_no_volume(predictor: FlowPredictor) -> None:
    predictor.add(box(3))
    result = predictor.propagate()
    for ask in (lambda: result.shape, result.labels, result.mask):
        with pytest.raises(InputError, match=r"images of 8 sizes are no volume; ask labels_of"):
            ask()


def test_a_set_of_one_size_is_stacked() -> None:
    predictor, _ = make([IMAGES[0], IMAGES[4]])
    predictor.add(box(1), object_id=5)
    result = predictor.propagate()
    assert result.shape == (2, 20, 30)
    np.testing.assert_array_equal(result.labels()[0], result.labels_of(0))


@pytest.mark.parametrize("prompted", [0, 3, NUM - 1])
def test_any_image_may_be_prompted_and_comes_first(prompted: int, predictor: FlowPredictor) -> None:
    predictor.add(box(prompted))
    masks = list(predictor.stream())
    others = [index for index in range(NUM) if index != prompted]
    assert order(masks) == [prompted, *others]
    assert predictor.num_results() == NUM
    for i, mask in enumerate(masks):
        latest = tuple(others[max(0, i - 1 - 6) : i - 1]) if i else ()
        assert mask.memory_frames == ((prompted, *latest) if i else ())


def test_another_image_prompted_later_is_read_by_all(made: Made) -> None:
    predictor, _ = made
    predictor.add(box(3))
    first = predictor.propagate()
    predictor.add(box(6))
    second = predictor.propagate()
    assert not same(second, first)
    assert second.slices[1][6].memory_frames == ()
    assert second.slices[1][0].memory_frames == (3, 6)
    wanted, _ = make()
    wanted.add(box(3))
    wanted.add(box(6))
    assert same(second, wanted.propagate())


def test_an_image_that_was_found_is_corrected_from_what_it_had_read(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(3))
    found = predictor.propagate().slices[1][6].segmented
    step = asked(backend, "memory_attention")[5]
    backend.calls.clear()
    predictor.add(click(6))
    (again,) = asked(backend, "memory_attention")
    for name, values in step.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    (decoded,) = asked(backend, "mask_decoder")
    np.testing.assert_array_equal(decoded["mask_input"][0, 0], found.logits)
    assert not decoded["add_no_mem_embed"].any()


def in_degrees(inputs: Inputs) -> Inputs:
    """Embeddings whose direction is the grey in degrees; the lengths say nothing."""
    grey = (inputs["image"][:, 0, 0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]) * 255
    features = encode(inputs)["vision_features"]
    features[:] = 0
    for row, angle in zip(features, np.deg2rad(grey), strict=True):
        row[0] = (1 + 5 * angle) * np.cos(angle)
        row[1] = (1 + 5 * angle) * np.sin(angle)
    return {"vision_features": features}


def squares(*greys: int) -> list[np.ndarray]:
    return [np.full((16, 16), grey, np.uint8) for grey in greys]


@pytest.mark.parametrize(
    ("greys", "prompted", "wanted"),
    [
        ((10, 80, 50, 45, 0), [2], [2, 3, 1, 0, 4]),
        ((10, 80, 50, 45, 0), [4], [4, 0, 3, 2, 1]),
        ((10, 80, 50, 45, 0), [1, 4], [1, 4, 0, 2, 3]),
        ((30, 60, 20, 41, 22), [0], [0, 4, 2, 3, 1]),
        ((100, 0, 170), [1], [1, 0, 2]),
    ],
)
def test_in_the_order_of_similarity_those_most_alike_to_a_prompted_image_come_first(
    greys: tuple[int, ...], prompted: list[int], wanted: list[int]
) -> None:
    predictor, _ = make(squares(*greys), image_encoder=in_degrees)
    for index in prompted:
        predictor.add(box(index))
    assert order(predictor.stream(order="similar")) == wanted


def test_images_that_are_alike_keep_the_order_given() -> None:
    predictor, _ = make(squares(30, 50, 50, 40, 50), image_encoder=in_degrees)
    predictor.add(box(0))
    assert order(predictor.stream(order="similar")) == [0, 3, 1, 2, 4]


def test_each_object_has_its_own_order_of_similarity() -> None:
    predictor, _ = make(squares(10, 80, 50, 45, 0), image_encoder=in_degrees)
    predictor.add(box(4))
    predictor.add(box(1), object_id=2)
    found = [(mask.object_id, mask.slice) for mask in predictor.stream(order="similar")]
    assert [index for object_id, index in found if object_id == 1] == [4, 0, 3, 2, 1]
    assert [index for object_id, index in found if object_id == 2] == [1, 2, 3, 0, 4]


@pytest.mark.parametrize("orders", [("given", "similar"), ("similar", "given")])
def test_asked_for_another_order_a_run_is_made_in_that_order(orders: tuple[Any, Any]) -> None:
    images = squares(10, 80, 50, 45, 0)
    predictor, _ = make(images, image_encoder=in_degrees)
    wanted, _ = make(images, image_encoder=in_degrees)
    for each in (predictor, wanted):
        each.add(box(2))
    predictor.propagate(orders[0])
    found = predictor.propagate(orders[1])
    expected = wanted.propagate(orders[1])
    for index in range(5):
        assert found.slices[1][index].memory_frames == expected.slices[1][index].memory_frames
    assert same(found, expected)


@pytest.mark.parametrize("chosen", ["given", "similar"])
def test_each_image_is_encoded_once(chosen: Any, made: Made) -> None:
    predictor, backend = made
    predictor.add(box(3))
    predictor.add(box(5), object_id=2)
    predictor.propagate(chosen)
    predictor.add(box(1))
    predictor.propagate(chosen)
    assert len(asked(backend, "image_encoder")) == NUM


def test_objects_do_not_depend_on_each_other() -> None:
    together, _ = make()
    together.add(box(3))
    together.add(box(5, start=4), object_id=2)
    result = together.propagate()
    assert result.object_ids == (1, 2)
    assert together.num_results() == 2 * NUM
    for object_id, prompt in ((1, box(3)), (2, box(5, start=4))):
        alone, _ = make()
        alone.add(prompt, object_id=object_id)
        only = Result(result.shapes, {object_id: result.slices[object_id]})
        assert same(only, alone.propagate())


def test_an_object_whose_prompts_have_not_changed_is_not_computed_again(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(3))
    predictor.add(box(5), object_id=2)
    predictor.propagate()
    predictor.add(box(8), object_id=2)
    backend.calls.clear()
    predictor.propagate()
    steps = asked(backend, "memory_attention")
    assert [len(step["memory_time"]) for step in steps] == [1] * (NUM - 2)


def test_grey_images_and_the_same_in_colour_are_encoded_alike() -> None:
    encoded = []
    for images in (IMAGES, [np.repeat(image[..., None], 3, axis=2) for image in IMAGES]):
        predictor, backend = make(images)
        predictor.add(box(0))
        result = predictor.propagate()
        assert result.shapes == SIZES
        encoded.append(asked(backend, "image_encoder"))
    for grey, colour in zip(*encoded, strict=True):
        np.testing.assert_array_equal(grey["image"], colour["image"])


def test_colours_keep_their_order() -> None:
    colours = np.broadcast_to(np.array([10, 100, 200], np.uint8), (20, 20, 3))
    predictor, backend = make([colours])
    predictor.add(box(0))
    image = asked(backend, "image_encoder")[0]["image"][0]
    for channel, value, mean, std in zip(image, (10, 100, 200), PIXEL_MEAN, PIXEL_STD, strict=True):
        np.testing.assert_allclose(channel, (value / 255 - mean) / std, rtol=1e-5)


COLOUR = np.zeros((20, 20, 3), np.uint8)

REFUSED_SETS: dict[str, tuple[list[np.ndarray], str]] = {
    "none": ([], "found no images; wanted at least one"),
    "mixed": ([IMAGES[0], IMAGES[1], COLOUR], "image 0 is grey, image 2 is colour"),
    "mixed the other way": ([COLOUR, IMAGES[0]], "image 0 is colour, image 1 is grey"),
    "floats": ([IMAGES[0], IMAGES[1] / 255], r"image 1 is float64\(40, 24\); wanted uint8"),
    "sixteen bits": ([IMAGES[0].astype(np.uint16)], "image 0 is uint16"),
    "four channels": ([COLOUR, np.zeros((20, 20, 4), np.uint8)], "image 1 is uint8"),
    "empty": ([IMAGES[0], np.zeros((0, 4), np.uint8)], r"image 1 is uint8\(0, 4\)"),
    "a volume": ([np.zeros((5, 20, 20), np.uint8)], "image 0 is uint8"),
}


@pytest.mark.parametrize("case", REFUSED_SETS)
def test_a_set_that_is_refused_leaves_the_one_before(case: str, predictor: FlowPredictor) -> None:
    images, why = REFUSED_SETS[case]
    predictor.add(box(3))
    with pytest.raises(InputError, match=why):
        predictor.set_images(images)
    assert predictor.propagate().shapes == SIZES


def test_a_new_set_forgets_the_objects_of_the_one_before(predictor: FlowPredictor) -> None:
    predictor.add(box(3))
    predictor.set_images(IMAGES[:2])
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()
    with pytest.raises(PromptError, match="nothing to undo"):
        predictor.undo()
    predictor.add(box(1))
    assert predictor.propagate().shapes == SIZES[:2]


def mask_of(index: int, shape: tuple[int, int]) -> Mask:
    return Mask(slice=index, mask=np.ones(shape, bool))


REFUSED: dict[str, tuple[list[Prompt], str]] = {
    "no such image": ([box(NUM)], "there is no image 9: images are 0 to 8"),
    "an image before the first": ([box(-1)], "there is no image -1"),
    "half an image": ([Point(slice=0.5, y=1, x=1)], "there is no image 0.5"),  # type: ignore[arg-type]
    "two images": ([click(3), click(4)], r"slices \[3, 4\] in one call"),
    "outside of this image": ([Point(slice=2, y=17, x=1)], "point y = 17 is outside"),
    "a mask of another image's size": ([mask_of(0, SIZES[1])], r"mask is \(40, 24\)"),
    "nothing": ([], "no prompt given"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prompts_that_are_refused_change_nothing(case: str, made: Made) -> None:
    predictor, backend = made
    prompts, why = REFUSED[case]
    with pytest.raises(PromptError, match=why):
        predictor.add(*prompts)
    assert backend.calls == []
    assert predictor.num_results() == 0


def test_prompts_fit_the_image_they_are_on(predictor: FlowPredictor) -> None:
    assert predictor.add(Point(slice=5, y=63, x=47)).shape == (64, 48)
    found = predictor.add(mask_of(1, SIZES[1]))
    assert found.mask().all()


@pytest.mark.parametrize("object_id", [0, 65536, 1.0, "1", None])
def test_an_object_id_is_a_whole_number_that_fits_into_a_label(
    object_id: Any, predictor: FlowPredictor
) -> None:
    with pytest.raises(PromptError, match="is not a whole number from 1 to 65535"):
        predictor.add(click(4), object_id=object_id)


ASKS: dict[str, Callable[[FlowPredictor], Any]] = {
    "add": lambda predictor: predictor.add(box(0)),
    "propagate": lambda predictor: predictor.propagate(),
    "stream": lambda predictor: next(predictor.stream()),
    "undo": lambda predictor: predictor.undo(),
    "reset": lambda predictor: predictor.reset(),
    "num_results": lambda predictor: predictor.num_results(),
}


@pytest.mark.parametrize("ask", ASKS)
def test_without_images_nothing_can_be_asked(ask: str) -> None:
    predictor = FlowPredictor(fake_model()[0])
    predictor.cancel()
    with pytest.raises(PromptError, match="no images yet; call set_images first"):
        ASKS[ask](predictor)


def test_without_prompts_there_is_nothing_to_follow(predictor: FlowPredictor) -> None:
    with pytest.raises(PromptError, match="no prompt yet; call add first"):
        predictor.propagate()


def test_an_unknown_order_is_refused_beside_those_there_are(predictor: FlowPredictor) -> None:
    predictor.add(box(0))
    with pytest.raises(InputError, match="no order 'random'; there are: given, similar"):
        predictor.propagate(order="random")  # type: ignore[arg-type]


def test_rules_that_do_not_fit_the_model_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="found capacity 7"):
        FlowPredictor(fake_model()[0], MemoryRules(capacity=7))


def test_a_run_that_was_cancelled_goes_on_where_it_stopped(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(3))
    found: list[SliceMask] = []
    for mask in predictor.stream():
        found.append(mask)
        if mask.slice == 1:
            predictor.cancel()
    assert order(found) == [3, 0, 1]
    backend.calls.clear()
    result = predictor.propagate()
    assert len(asked(backend, "memory_attention")) == NUM - 3
    assert result.is_complete
    wanted, _ = make()
    wanted.add(box(3))
    assert same(result, wanted.propagate())


def test_a_cancelled_result_says_that_it_is_incomplete() -> None:
    made: list[FlowPredictor] = []

    def cancel_at_once(inputs: Inputs) -> Inputs:
        made[0].cancel()
        return TELLING["memory_attention"](inputs)

    predictor, _ = make(memory_attention=cancel_at_once)
    made.append(predictor)
    predictor.add(box(3))
    result = predictor.propagate()
    assert not result.is_complete
    assert sorted(result.slices[1]) == [0, 3]
    assert not result.labels_of(8).any()


def test_undo_and_reset_take_prompts_back(predictor: FlowPredictor) -> None:
    predictor.add(box(3))
    first = predictor.propagate()
    predictor.add(box(6))
    predictor.add(box(1), object_id=2)
    predictor.propagate()
    predictor.undo()
    predictor.undo()
    assert same(predictor.propagate(), first)
    predictor.reset(1)
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()
    predictor.undo()
    assert same(predictor.propagate(), first)
    with pytest.raises(PromptError, match=r"no object 2; there are: \[1\]"):
        predictor.reset(2)
    predictor.undo()
    with pytest.raises(PromptError, match="nothing to undo"):
        predictor.undo()


def test_labels_of_an_image_hold_its_objects() -> None:
    def find_the_left_half(inputs: Inputs) -> Inputs:
        side = FAKE_NUMBERS.low_res
        masks = np.full((len(inputs["features"]), 1, side, side), -4.0, np.float32)
        masks[..., : side // 2] = 4.0
        return {"low_res_masks": masks}

    predictor, _ = make(mask_decoder=find_the_left_half)
    right = np.zeros(SIZES[5], bool)
    right[:, 24:] = True
    predictor.add(box(3), object_id=7)
    predictor.add(Mask(slice=5, mask=right), object_id=9)
    result = predictor.propagate()
    assert result.labels_of(5).shape == SIZES[5]
    assert (result.labels_of(5)[:, :20] == 7).all()
    assert (result.labels_of(5)[:, 28:] == 9).all()
    assert set(np.unique(result.labels_of(4))) == {0, 7}


def test_images_that_lost_the_object_are_the_first_to_review_wherever_they_are() -> None:
    lost = GREYS[5:]

    def lose(inputs: Inputs) -> Inputs:
        grey = (inputs["high_res_feats_0"][:, 0, 0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]) * 255
        is_lost = np.isin(np.round(grey), lost)
        return {
            "object_score_logits": np.where(is_lost, -5.0, 5.0),
            "ious": 0.5 + grey / 1000,
        }

    def pass_grey_on(inputs: Inputs) -> Inputs:
        return {**encode(inputs), "high_res_feats_0": inputs["image"][:, :1, :1, :1]}

    predictor, _ = make(mask_decoder=lose, image_encoder=pass_grey_on)
    predictor.add(box(3))
    predictor.add(box(0))
    result = predictor.propagate()
    review = result.review()
    assert [index for index, _, _ in review] == [5, 6, 7, 8, 2, 4, 1]
    assert [confidence for *_, confidence in review[:4]] == [0.0] * 4
    assert [object_id for _, object_id, _ in review] == [1] * 7
    assert result.review(2) == review[:2]
