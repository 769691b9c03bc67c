"""Whole propagations of other families' networks against their official packages, on each back end of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.speed.official import holes_filled, official_predictor
from benchmarks.speed.roofline import step_costs
from export import dice_check
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.torch_backend import torch_model
from export.variants import Variant
from export.verify import verify
from export.write_bundle import INT8_GRAPHS
from runtime import load
from runtime.bundle.bundle import Bundle
from runtime.commands.certify import compare
from runtime.prompts.prompts import Box, Mask, Point
from tests.conftest import in_eight_bits, written
from tests.official import marks_of
from tests.parity import (
    Task,
    Tracks,
    run_official,
    run_ours,
    same_masks,
    volume,
    worst_difference,
)
from tests.variants import TOY_EDGE, TOY_VIT, TOY_VIT_1

pytestmark = pytest.mark.filterwarnings("ignore")  # upstream's own

TOLERANCE = 1e-3  # as in test_propagation.py


@dataclass(frozen=True)
class Family:
    """One network, exported, and the same from its official package."""

    model: Sam2
    bundle: Bundle
    official: torch.nn.Module
    _truths: dict[str, tuple[Tracks, Tracks]] = field(default_factory=dict)

    def truth(self, name: str) -> tuple[Tracks, Tracks]:
        """What the official package makes of one of `TASKS`, which every back end is compared with."""
        if name not in self._truths:
            task = TASKS[name]
            self._truths[name] = run_official(self.official, volume(task.num_slices), task)
        return self._truths[name]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(row, id=row.name, marks=marks_of(row))
        for row in (TOY_VIT, TOY_VIT_1, TOY_EDGE)
    ],
)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    variant: Variant = request.param
    model, official = Sam2(variant), official_predictor(variant, variant.image_size)
    state = random_state(model, seed=3)
    model.load_state_dict(state, strict=True)
    official.load_state_dict(state, strict=True)
    with holes_filled():
        yield Family(model, written(model, tmp_path_factory.mktemp("family") / "b"), official)


def box(index: int) -> Box:
    return Box(slice=index, y=(20, 60), x=(30, 60))


def click(index: int) -> Point:
    return Point(slice=index, y=40, x=45)


def disk(index: int) -> Mask:
    mask = torch.zeros(96, 112, dtype=torch.bool)
    mask[25:50, 30:60] = True
    return Mask(slice=index, mask=mask.numpy())


TASKS = {
    # As many slices as fill the memory, and one more.
    "a click": Task({1: [[click(0)]]}, num_slices=9),
    "two objects in reverse": Task({1: [[disk(6)]], 5: [[box(6), click(6)]]}, -1, num_slices=7),
    "two prompted slices": Task({1: [[box(1)], [click(1)], [disk(4)]]}, num_slices=8),
}


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("name", TASKS)
def test_every_slice_equals_upstream(name: str, backend: str, family: Family) -> None:
    task = TASKS[name]
    truth, full_truth = family.truth(name)
    found, full = run_ours(load(family.bundle, backend), volume(task.num_slices), task)
    assert worst_difference(found, truth) < TOLERANCE
    assert worst_difference(full, full_truth) < TOLERANCE
    assert same_masks(full, full_truth, TOLERANCE)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_each_graph_and_all_that_runs_on_them_is_certified(backend: str, family: Family) -> None:
    certificate = verify(family.bundle, family.model, backend, num_slices=4)
    assert certificate["passed"], certificate


def test_graphs_in_eight_bits_hold(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dice_check, "PHANTOMS", 1)
    monkeypatch.setattr(dice_check, "PHANTOM_SLICES", 3)
    bundle = in_eight_bits(family.bundle, tmp_path / "b")
    assert bundle.int8_graphs == INT8_GRAPHS
    for graph, figures in bundle.manifest["int8"]["graphs"].items():
        assert figures["products"] > figures["in_fp32"], graph
    model = family.model
    certificate = compare(bundle, "ort-int8", torch_model(model), load(bundle, "ort-int8"), 3)
    assert all(
        output["passed"]
        for outputs in certificate["graphs"].values()
        for output in outputs.values()
    ), certificate["graphs"]


def test_its_arithmetic_is_counted_with_several_memories_and_with_one(family: Family) -> None:
    @cache
    def flop(slots: int) -> int:
        return sum(cost.flop for cost in step_costs(family.bundle, slots=slots)["attend"])

    numbers = family.bundle.model
    keys, tokens = numbers.keys_per_memory, numbers.num_tokens
    # Of one more memory: what reading it takes, and what making its keys does.
    assert flop(6) - flop(5) > 2 * tokens * keys * (numbers.d_model + numbers.mem_dim)
    assert flop(6) - flop(5) == flop(5) - flop(4)
    assert 0 < flop(1) < flop(4)
