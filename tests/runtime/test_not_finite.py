"""NaN and infinity out of a graph: an error with the graph's name, never a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from runtime import Box, VideoPredictor, VolumePredictor
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.bundle.tensors import Fetched, LowResMask
from runtime.errors import BundleError, NotFinite
from runtime.steps.cuda.readback import Readback
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model

OUTPUTS = [(graph, name) for graph in GRAPHS for name in graph_specs(FAKE_NUMBERS)[graph].outputs]
BOX = Box(slice=1, y=(10, 30), x=(10, 30))
PIXELS = np.arange(3 * 64 * 64, dtype=np.uint32).reshape(3, 64, 64).astype(np.uint8)


class Spoiled:
    """Answers in which one number of an output is wrong once a switch is thrown."""

    def __init__(self, graph: str, name: str, wrong: float) -> None:
        self.graph, self.name, self.wrong, self.is_on = graph, name, wrong, True

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        found: dict[str, Any] = dict(TELLING[self.graph](inputs))
        if self.is_on:
            axes = dict.fromkeys("nb", len(next(iter(inputs.values()))))
            shape = graph_specs(FAKE_NUMBERS)[self.graph].outputs[self.name].bind(axes)
            spoiled = np.zeros(shape, np.float32)
            spoiled.flat[-1] = self.wrong
            found[self.name] = spoiled
        return found


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("graph", "name"), OUTPUTS)
def test_one_wrong_number_is_a_bad_bundle_and_says_where(
    graph: str, name: str, wrong: float
) -> None:
    spoiled = Spoiled(graph, name, wrong)
    predictor = VolumePredictor(fake_model({**TELLING, graph: spoiled})[0])
    predictor.set_volume(PIXELS, "none")
    with pytest.raises(NotFinite, match=f"{graph} gave NaN or infinity in {name} on fake") as error:
        predictor.add(BOX)
        predictor.propagate()
    assert (error.value.graph, error.value.output) == (graph, name)
    assert isinstance(error.value, BundleError) and error.value.exit_code == 4
    assert "--backend ort" in str(error.value) and "export it again" in str(error.value)


@pytest.mark.parametrize("graph", GRAPHS)
def test_nothing_of_it_is_kept(graph: str) -> None:
    (name, *_) = graph_specs(FAKE_NUMBERS)[graph].outputs
    spoiled = Spoiled(graph, name, np.nan)
    spoiled.is_on = False
    predictor = VolumePredictor(fake_model({**TELLING, graph: spoiled})[0])
    predictor.set_volume(PIXELS, "none")
    predictor.add(BOX)
    whole = predictor.propagate().mask()
    predictor.reset()
    predictor.set_volume(PIXELS, "none")
    if graph != "image_encoder":
        predictor.add(BOX)
    spoiled.is_on = True
    with pytest.raises(NotFinite):
        predictor.add(BOX) if graph == "image_encoder" else predictor.propagate()
    spoiled.is_on = False
    if graph == "image_encoder":
        predictor.add(BOX)
    np.testing.assert_array_equal(predictor.propagate().mask(), whole)


def test_a_video_stops_at_the_frame() -> None:
    spoiled = Spoiled("memory_attention", "conditioned_features", np.nan)
    video = VideoPredictor(fake_model({**TELLING, "memory_attention": spoiled})[0])
    video.push(PIXELS[0])
    video.add(Box(y=(10, 30), x=(10, 30)), object_id=1)
    with pytest.raises(NotFinite, match="memory_attention"):
        video.push(PIXELS[1])


@pytest.mark.parametrize("output", ["ious", "object_score_logits", "obj_ptr"])
def test_what_is_fetched_from_a_device_is_looked_at(output: str) -> None:
    values = {"ious": 0.9, "object_score_logits": 2.0, "obj_ptr": np.ones(4, np.float32)}
    mask = LowResMask(lambda: np.zeros((4, 4), np.float32))
    Fetched(mask, *values.values())
    values[output] = np.float32(np.nan) if output != "obj_ptr" else np.full(4, np.inf)
    with pytest.raises(NotFinite, match=f"mask_decoder gave NaN or infinity in {output};"):
        Fetched(mask, *values.values())


def test_masks_read_back_from_a_device_are_looked_at() -> None:
    class Stream:
        def record(self) -> Stream:
            return self

        def sync(self) -> None: ...

    class Device:
        def use(self) -> None: ...

        def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
            return np.empty(shape, dtype)

        def copy(self, source: np.ndarray, target: np.ndarray, *, stream: Stream) -> None:
            target[...] = source

    logits = np.ones((2, 1, 4, 4), np.float32)
    logits[1, 0, 2, 2] = np.nan
    sound, spoiled = Readback(Device()).masks(logits, stream=Stream())
    np.testing.assert_array_equal(sound.unfilled, logits[0, 0])
    for _ in range(2):
        with pytest.raises(NotFinite, match="low_res_masks"):
            _ = spoiled.unfilled
