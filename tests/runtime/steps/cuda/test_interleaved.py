"""Predictors of one model that take turns in whatever order: on a device they find what they find on the host."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Box, FlowPredictor, Mask, MemoryRules, Point, VideoPredictor, VolumePredictor
from runtime.errors import InputError, PromptError
from runtime.model import Model
from runtime.predictors import ImagePredictor
from runtime.predictors.result import SliceMask
from tests.cuda import on_device
from tests.fakes import TELLING, fake_model
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

RULES = (
    None,
    MemoryRules(policy="self_sorting", pick_up="weighted"),
    MemoryRules(policy="confidence", pick_up="resample", confidence="foreground"),
)
SIDE = 16
Found = list[SliceMask]


def pixels_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 255, shape, np.uint8)


def prompt(rng: np.random.Generator, index: int) -> Point | Box | Mask:
    y, x = (int(i) for i in rng.integers(0, SIDE - 6, 2))
    kind = rng.integers(4)
    if kind == 0:
        return Box(slice=index, y=(y, y + 5), x=(x, x + 4))
    if kind == 1:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[y : y + 6, x : x + 5] = True
        return Mask(slice=index, mask=mask)
    return Point(slice=index, y=y, x=x, positive=bool(kind == 2))


class Walk:
    """A volume or a set of images, prompted and streamed a step at a time."""

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        rules, limit = RULES[rng.integers(len(RULES))], (None, 1)[rng.integers(2)]
        self.is_set = rng.random() < 0.3
        kind = FlowPredictor if self.is_set else VolumePredictor
        self.predictor: Any = kind(model, rules, max_feature_bytes=limit)
        self.stream: Iterator[SliceMask] = iter(())
        self.fill(rng)

    def fill(self, rng: np.random.Generator) -> None:
        self.count = int(rng.choice([1, 3, 9, 40], p=[0.1, 0.2, 0.5, 0.2]))
        if self.is_set:
            rest = (3,) if rng.random() < 0.5 else ()
            self.predictor.set_images(
                [pixels_of(rng, SIDE, SIDE, *rest) for _ in range(self.count)]
            )
        else:
            self.predictor.set_volume(pixels_of(rng, self.count, SIDE, SIDE), "none")

    def do(self, rng: np.random.Generator) -> Found:
        what = rng.integers(20)
        if what < 7:
            index, object_id = int(rng.integers(self.count)), int(rng.integers(1, 6))
            return [self.predictor.add(prompt(rng, index), object_id=object_id)]
        if what < 15:
            return [found for _ in range(rng.integers(1, 9)) if (found := next(self.stream, None))]
        if what < 17:
            self.stream = self.predictor.stream()
        elif what == 17:
            self.predictor.undo()
        elif what == 18 and rng.random() < 0.5:
            self.fill(rng)
        elif what == 18:
            self.predictor.cancel()
        else:
            self.predictor.reset(int(rng.integers(1, 6)) if rng.random() < 0.7 else None)
        return []


class Film:
    """A video in colour."""

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        self.predictor = VideoPredictor(model, RULES[rng.integers(len(RULES))])

    def do(self, rng: np.random.Generator) -> Found:
        if rng.random() < 0.6:
            return list(self.predictor.push(pixels_of(rng, SIDE, SIDE, 3)).values())
        if rng.random() < 0.1:
            self.predictor.reset()
        return [self.predictor.add(prompt(rng, 0), object_id=int(rng.integers(1, 11)))]


class Picture:
    """Images, one at a time."""

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        self.predictor = ImagePredictor(model)

    def do(self, rng: np.random.Generator) -> Found:
        if rng.random() < 0.4:
            self.predictor.set_image(pixels_of(rng, SIDE, SIDE))
        return [self.predictor.predict(prompt(rng, 0))]


class Session:
    """Three predictors of one model."""

    def __init__(self, model: Model, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kinds = [Walk, Walk, *rng.permutation(np.array([Walk, Film, Picture], object))[:1]]
        self.all = [kind(model, rng) for kind in kinds]

    def do(self, seed: int) -> Found | str:
        rng = np.random.default_rng(seed)
        try:
            return self.all[rng.integers(len(self.all))].do(rng)
        except (InputError, PromptError) as error:
            return f"{type(error).__name__}: {error}"


def assert_same(ours: Found, right: Found) -> None:
    assert [(m.slice, m.object_id) for m in ours] == [(m.slice, m.object_id) for m in right]
    for found, truth in zip(ours, right, strict=True):
        np.testing.assert_allclose(
            found.segmented.logits, truth.segmented.logits, atol=1e-4, err_msg=str(truth.slice)
        )
        assert found.confidence == pytest.approx(truth.confidence, abs=1e-4)
        assert found.memory_frames == truth.memory_frames


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_predictors_of_one_model_do_not_disturb_each_other(seed: int) -> None:
    device = HostDevice(1 << 23)
    model, _ = on_device(fake_model(TELLING)[0], device)
    sessions = Session(model, seed), Session(fake_model(TELLING)[0], seed)
    late: list[tuple[Found, Found]] = []
    for number in range(60):
        ours, right = (each.do(hash((seed, number)) % 2**32) for each in sessions)
        if isinstance(ours, str) or isinstance(right, str):
            assert ours == right
        elif number % 2:
            assert_same(ours, right)
        else:
            late.append((ours, right))
    del sessions
    gc.collect()
    for ours, right in late:
        assert_same(ours, right)
