"""The official networks of single images as rivals: the same work as ours, timed in the same way."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from export.model.network import network
from export.model.sam1 import Sam1
from export.random_weights import random_state
from export.torch_backend import torch_model
from export.variants import Variant
from runtime.errors import BackendUnavailable
from runtime.measure.latency import bench_phantom, summarise, time_propagation, time_volume
from tests.variants import TOY_LITEMEDSAM, TOY_SAM

if not (find_spec("segment_anything") and find_spec("timm")):
    pytest.skip("make test installs segment-anything and timm", allow_module_level=True)

from benchmarks.speed.official_stills import OfficialStills


def model_of(row: Variant, monkeypatch: pytest.MonkeyPatch) -> Sam1:
    monkeypatch.setattr("benchmarks.speed.official_stills.VARIANTS", {row.name: row})
    model = network(row)
    model.load_state_dict(random_state(model, seed=7), strict=True)
    assert isinstance(model, Sam1)
    return model


@pytest.mark.parametrize("row", [TOY_SAM, TOY_LITEMEDSAM], ids=lambda row: row.name)
def test_both_box_every_slice_and_find_the_same(
    row: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, phantom = model_of(row, monkeypatch), bench_phantom(3, 64)
    official = OfficialStills(model, "eager", None, "cpu")
    theirs, ours = official.run(phantom, 2), time_propagation(torch_model(model), phantom, 2)
    assert theirs.logits.keys() == ours.logits.keys()
    assert len(theirs.logits) == 2 * 4 and len(theirs.steps_ms) == len(ours.steps_ms) == 3
    for key, logits in theirs.logits.items():
        assert np.abs(logits - ours.logits[key]).max() < 1e-4 * np.abs(logits).max()
    table = summarise([ours], model.numbers.num_maskmem)
    assert table["encode"]["median"] > 0 and table["attend"]["median"] == 0
    assert ours.first_mask_ms > 0 and ours.second_prompt_ms > 0
    assert official.volume_ms(phantom, 1) > 0
    assert time_volume(torch_model(model), phantom, 1) > 0


def test_what_upstream_does_not_have_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(TOY_SAM, monkeypatch)
    with pytest.raises(BackendUnavailable, match="has nothing like vos_optimized"):
        OfficialStills(model, "vos_optimized", torch.bfloat16, "cpu")
