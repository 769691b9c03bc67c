"""Videos, image sets and single images seen through crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.memory import MemoryRules
from runtime.predictors import FlowPredictor, ImagePredictor, VideoPredictor, VolumePredictor
from runtime.predictors.region import Region
from runtime.predictors.result import SliceMask
from runtime.predictors.stop import StopRule
from runtime.prompts.prompts import Box, Mask, Point
from tests.cuda import on_device
from tests.fakes import SEEING, Inputs, fake_model

SIDE = 256
NUM = 8


def square(y: float, x: float, size: float = 20, is_colour: bool = False) -> Any:
    image = np.full((SIDE, SIDE), 10, np.uint8)
    half = size / 2
    image[max(round(y - half), 0) : round(y + half), max(round(x - half), 0) : round(x + half)] = (
        200
    )
    return np.repeat(image[..., None], 3, 2) if is_colour else image


def frames(drift: float, is_colour: bool = False) -> list[Any]:
    return [square(128, 90 + drift * z, is_colour=is_colour) for z in range(NUM)]


BOX = Box(y=(118, 138), x=(80, 100))


def follow(video: VideoPredictor, shown: Sequence[Any]) -> list[SliceMask]:
    found = []
    for number, frame in enumerate(shown):
        masks = video.push(frame)
        found.append(video.add(BOX) if number == 0 else masks[1])
    return found


def assert_same(found: SliceMask, wanted: SliceMask) -> None:
    assert found.crop == wanted.crop and found.memory_frames == wanted.memory_frames
    np.testing.assert_array_equal(found.segmented.logits, wanted.segmented.logits)


@pytest.mark.parametrize("is_colour", [False, True])
def test_a_video_is_seen_as_a_volume_is(is_colour: bool) -> None:
    shown = frames(9, is_colour)
    model, backend = fake_model(SEEING)
    video = VideoPredictor(model, zoom=3.0)
    found = follow(video, shown)
    crops = [mask.crop for mask in found]
    assert crops[0] == Region((98, 158), (60, 120))
    assert 2 <= len(set(crops)) <= 4
    for mask, frame in zip(found, shown, strict=True):
        truth = Region.of_mask(frame.reshape(SIDE, SIDE, -1)[..., 0] > 100)
        drawn = Region.of_mask(mask.mask())
        assert truth is not None and drawn is not None
        assert mask.crop is None or mask.crop.holds(truth)
        reach = max((mask.crop or Region.whole((SIDE, SIDE))).shape) / 16 + 1
        assert np.abs(np.subtract(drawn.x, truth.x)).max() <= reach
    encoded = Counter(call.graph for call in backend.calls)["image_encoder"]
    assert encoded == video.num_encodings
    if not is_colour:
        volume = VolumePredictor(fake_model(SEEING)[0], zoom=3.0)
        volume.set_volume(np.stack(shown))
        volume.add(BOX)
        for z, mask in volume.propagate().slices[1].items():
            assert mask.crop == found[z].crop


@pytest.mark.parametrize(
    "rules", [None, MemoryRules(policy="self_sorting", pick_up="weighted")], ids=["fifo", "sorting"]
)
def test_a_crop_of_the_whole_frame_is_no_zoom_bit_for_bit(rules: MemoryRules | None) -> None:
    wanted = follow(VideoPredictor(fake_model(SEEING)[0], rules), frames(5))
    for mask, same in zip(
        follow(VideoPredictor(fake_model(SEEING)[0], rules, zoom=100.0), frames(5)),
        wanted,
        strict=True,
    ):
        assert mask.crop is None
        assert_same(mask, same)


def test_only_frames_that_a_wider_crop_would_need_are_kept() -> None:
    video = VideoPredictor(fake_model(SEEING)[0], zoom=3.0)
    follow(video, [*frames(0), *frames(0)])
    known = video._objects[1]
    assert sorted(known.seeds) == [0, 2 * NUM - 1]
    for x in range(90, 256, 8):
        video.push(square(128, x, 50))
    assert known.crop is None and known.seeds == {}
    arena = video._arena
    video.reset()
    assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0
    assert arena.memories._reserved == arena.pointers._reserved == 0


def test_corrections_of_a_video_outside_the_crop_widen_it() -> None:
    video = VideoPredictor(fake_model(SEEING)[0], zoom=3.0)
    crop = follow(video, frames(0))[-1].crop
    assert crop is not None
    assert video.add(Point(y=128, x=95)).crop == crop
    wider = video.add(Point(y=128, x=200)).crop
    assert wider is not None and wider.holds(crop) and wider.holds(Region((128, 129), (200, 201)))
    assert video.push(square(128, 90))[1].crop == wider
    assert video.push(square(128, 90))[1].memory_frames[:2] == (0, NUM - 1)
    assert sorted(video._objects[1].past) == [0, NUM - 1]


def test_objects_of_a_video_have_crops_of_their_own_or_share_one() -> None:
    both = np.maximum(square(128, 90), square(40, 220))
    video = VideoPredictor(fake_model(SEEING)[0], zoom=3.0)
    video.push(both)
    masks = [video.add(BOX, object_id=1), video.add(BOX, object_id=2)]
    far = video.add(Box(y=(30, 50), x=(210, 230)), object_id=3)
    assert masks[0].crop == masks[1].crop != far.crop
    before = video.num_encodings
    found = video.push(both)
    assert video.num_encodings - before == 2
    assert [found[i].crop for i in (1, 2, 3)] == [masks[0].crop, masks[0].crop, far.crop]


@pytest.mark.parametrize("graph", SEEING)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_while_a_crop_becomes_wider_leaves_memory_sound(
    graph: str, error: type[BaseException]
) -> None:
    left = [0]

    def answer(inputs: Inputs) -> Inputs:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return SEEING[graph](inputs)

    for at in (1, 2, 3):
        video = VideoPredictor(fake_model({**SEEING, graph: answer})[0], zoom=3.0)
        left[0] = 0
        follow(video, [square(128, 90)] * 2)
        left[0] = at
        for _ in range(3):
            try:
                video.push(square(128, 112))
            except error:
                break
        left[0] = 0
        found = video.push(square(128, 114))[1]
        truth = Region.of_mask(square(128, 114) > 100)
        assert truth is not None and (found.crop is None or found.crop.holds(truth))
        arena, known = video._arena, video._objects[1]
        held = len(known.conditioning.memories) + len(known.bank.memories)
        assert arena.memories.in_use == held
        video.reset()
        assert arena.memories.in_use == arena.pointers.in_use == 0
        assert arena.memories._reserved == arena.pointers._reserved == 0


def test_a_stop_rule_ends_what_is_seen_in_a_crop() -> None:
    video = VideoPredictor(fake_model(SEEING)[0], stop=StopRule(below=0.5, after=2), zoom=3.0)
    follow(video, frames(0))
    for _ in range(3):
        masks = video.push(np.full((SIDE, SIDE), 10, np.uint8))
    assert masks == {} and video.ends[1].slice == NUM + 1


def test_a_video_on_a_device_is_cut_on_the_host() -> None:
    wanted = follow(VideoPredictor(fake_model(SEEING)[0], zoom=3.0), frames(9))
    found = follow(VideoPredictor(on_device(fake_model(SEEING)[0])[0], zoom=3.0), frames(9))
    for mask, same in zip(found, wanted, strict=True):
        assert_same(mask, same)


def test_the_prompted_image_of_a_set_is_seen_in_a_crop_and_the_others_whole() -> None:
    images = [square(100, 140), square(60, 60, 80), square(200, 30, 40)]
    flow = FlowPredictor(fake_model(SEEING)[0], zoom=3.0)
    flow.set_images(images)
    first = flow.add(Box(slice=0, y=(90, 110), x=(130, 150)))
    assert first.crop == Region((70, 130), (110, 170))
    result = flow.propagate()
    assert [result.slices[1][i].crop for i in range(3)] == [first.crop, None, None]
    for i, image in enumerate(images):
        overlap = result.slices[1][i].mask() & (image > 100)
        assert overlap.sum() > 0.6 * (image > 100).sum()
    second = flow.add(Box(slice=1, y=(20, 100), x=(20, 100)))
    assert second.crop == Region((0, 240), (0, 240)), "of its own image"
    corrected = flow.add(Point(slice=2, y=200, x=30))
    assert corrected.crop is None, "it corrects what was found on the whole image"
    flow.undo()
    flow.add(Box(slice=2, y=(180, 220), x=(10, 50)))
    assert all(mask.crop is not None for mask in flow.propagate().slices[1].values())
    flow.undo()
    assert flow.propagate().slices[1][2].crop is None


def test_a_crop_of_the_whole_image_is_no_zoom_in_a_set() -> None:
    images = [square(100, 140), square(60, 60, 80), square(200, 30, 40)]
    results = []
    for zoom in (None, 100.0):
        flow = FlowPredictor(fake_model(SEEING)[0], zoom=zoom)
        flow.set_images(images)
        flow.add(Box(slice=0, y=(90, 110), x=(130, 150)))
        results.append(flow.propagate())
    for i in range(3):
        assert_same(results[1].slices[1][i], results[0].slices[1][i])


def test_an_image_is_seen_in_a_crop_about_what_is_prompted() -> None:
    image = square(100, 140)
    model, backend = fake_model(SEEING)
    predictor = ImagePredictor(model, zoom=3.0)
    predictor.set_image(image)
    found = predictor.predict(Box(y=(90, 110), x=(130, 150)))
    assert found.crop == Region((70, 130), (110, 170))
    assert Counter(call.graph for call in backend.calls)["image_encoder"] == 1
    assert predictor.predict(Point(y=95, x=135, positive=False)).crop == found.crop
    outside = predictor.predict(Point(y=95, x=30)).crop
    assert outside is not None and outside.holds(Region((95, 96), (30, 31)))
    predictor.reset()
    clicked = predictor.predict(Point(y=100, x=140))
    assert clicked.crop is not None and clicked.crop.shape[0] <= 100
    assert predictor.predict(Mask(mask=image > 100)).crop == found.crop


def test_an_image_without_zoom_is_encoded_when_it_is_set() -> None:
    model, backend = fake_model(SEEING)
    ImagePredictor(model).set_image(square(100, 140))
    assert [call.graph for call in backend.calls] == ["image_encoder"]


@pytest.mark.parametrize("kind", [ImagePredictor, FlowPredictor, VideoPredictor])
def test_a_zoom_that_is_none(kind: Any) -> None:
    with pytest.raises(InputError, match="zoom"):
        kind(fake_model(SEEING)[0], zoom=0.5)
