"""What a bundle chooses for its users: read strictly, used where nobody says, and left out by those who compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle.bundle import open_bundle
from runtime.bundle.defaults import Defaults
from runtime.bundle.manifest import MANIFEST
from runtime.errors import BundleError, BundleIncomplete
from runtime.memory import MemoryRules
from runtime.model import Model, load
from runtime.predictors import VolumePredictor
from runtime.predictors.stop import StopRule
from runtime.prompts.prompts import Box
from tests.fakes import AS_SURE_AS_GREY, fake_model
from tests.manifests import manifest

WHOLE: dict[str, Any] = {
    "memory": {"policy": "confident_and_latest", "pick_up": "weighted"},
    "stop": {"below": 0.25, "after": 2},
    "zoom": 3.0,
    "smooth": 0.7,
    "measured": {"objects": 24, "dice": 0.8},
}


def folder(path: Path, defaults: Any) -> Path:
    (path / MANIFEST).write_text(json.dumps({**manifest(), "defaults": defaults}))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = open_bundle(folder(tmp_path, WHOLE)).defaults
    assert found == Defaults(**WHOLE)
    assert found.entry() == WHOLE
    assert open_bundle(folder(tmp_path, {})).defaults == Defaults()
    assert Defaults().entry() == {}


def test_a_bundle_without_any_has_all_of_it_off(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(manifest()))
    found = open_bundle(tmp_path).defaults
    assert found == Defaults()
    assert (found.stop, found.zoom, found.smooth, found.memory) == (None, None, 0.0, {})


@pytest.mark.parametrize(
    "defaults",
    [
        [],
        {"stopp": {}},
        {"stop": {"below": 0.5}},
        {"stop": {"below": 1.5, "after": 2}},
        {"stop": {"below": float("1e400"), "after": 2}},
        {"stop": {"below": 0.5, "after": 0}},
        {"stop": {"below": 0.5, "after": 2.0}},
        {"stop": {"below": True, "after": 2}},
        {"stop": {"below": 0.5, "after": 2, "other": 1}},
        {"stop": None},
        {"memory": {"policy": "fifo"}},
        {"memory": {"policy": 1, "pick_up": "all"}},
        {"memory": {"policy": "fifo", "pick_up": "all", "capacity": 10**9}},
        {"zoom": 0.5},
        {"zoom": 1e9},
        {"zoom": None},
        {"smooth": -0.1},
        {"smooth": 9},
        {"smooth": True},
        {"measured": 0.8},
    ],
)
def test_what_is_wrong_is_refused(defaults: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleIncomplete, match="manifest"):
        open_bundle(folder(tmp_path, defaults))


@pytest.mark.parametrize("name", ["policy", "pick_up"])
def test_a_memory_that_this_runtime_does_not_have_is_the_bundles_fault(
    name: str, tmp_path: Path
) -> None:
    memory = {**WHOLE["memory"], name: "of next year"}
    with pytest.raises(BundleError, match=r"defaults that cannot be used .*of next year"):
        load(folder(tmp_path, {"memory": memory}), backend="ort")


def made(defaults: Defaults | None) -> Model:
    model, backend = fake_model(AS_SURE_AS_GREY)
    return Model(model.numbers, backend, model.constants, defaults=defaults)


def visited(model: Model, *memory: Any, **stop: Any) -> list[int]:
    predictor = VolumePredictor(model, *memory)
    grey = np.array([225] * 3 + [0] * 9, np.uint8)
    predictor.set_volume(np.broadcast_to(grey[:, None, None], (12, 16, 16)), "none")
    predictor.add(Box(slice=1, y=(2, 12), x=(2, 12)))
    result = predictor.propagate(**stop)
    assert {mask.slice for mask in predictor.stream(**stop)} == set(result.slices[1])
    return sorted(result.slices[1])


def test_a_predictor_does_what_the_bundle_says_unless_told() -> None:
    model = made(Defaults(stop={"below": 0.5, "after": 2}))
    assert visited(model) == [0, 1, 2, 3, 4]
    assert visited(model, stop="auto") == [0, 1, 2, 3, 4]
    assert visited(model, stop=None) == list(range(12))
    assert visited(model, stop=StopRule(below=0.5, after=4)) == list(range(7))
    assert visited(model.plain()) == list(range(12))
    assert visited(made(None)) == list(range(12))


def test_memory_is_the_bundles_sam_2s_or_as_told() -> None:
    model = made(Defaults(memory={"policy": "confident_and_latest", "pick_up": "weighted"}))
    chosen = MemoryRules(policy="confident_and_latest", pick_up="weighted")
    assert VolumePredictor(model)._rules == chosen
    assert VolumePredictor(model, "auto")._rules == chosen
    assert VolumePredictor(model, None)._rules == MemoryRules()
    told = MemoryRules(policy="self_sorting")
    assert VolumePredictor(model, told)._rules == told
    assert VolumePredictor(model.plain())._rules == MemoryRules()


def test_zoom_is_the_bundles_none_or_as_told() -> None:
    model = made(Defaults(zoom=3.0))
    assert VolumePredictor(model)._factor == VolumePredictor(model, zoom="auto")._factor == 3.0
    assert VolumePredictor(model, zoom=None)._factor is None
    assert VolumePredictor(model, zoom=2.0)._factor == 2.0
    assert VolumePredictor(model.plain())._factor is None


def test_a_model_without_defaults_shares_its_engines() -> None:
    model = made(Defaults(zoom=3.0))
    plain = model.plain()
    assert plain.defaults == Defaults() and model.defaults.zoom == 3.0
    assert plain.engine("mask_decoder") is model.engine("mask_decoder")
    assert model.observed(lambda graph, inputs, outputs: None).defaults == model.defaults
