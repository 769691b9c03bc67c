"""What a certificate must never pass: every way in which an output can be wrong, from any run on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.devices.engine import Engine
from runtime.measure.parity import LOWEST_DICE, Criteria, compare_models
from runtime.model import Model
from tests.fakes import FAKE_NUMBERS, fake_model

SLICES = 3
SPECS = graph_specs(FAKE_NUMBERS)
BAR = Criteria(dict.fromkeys(GRAPHS, 1e-4), LOWEST_DICE, decides_alike=True)
OUTPUTS = [(graph, name) for graph in GRAPHS for name in SPECS[graph].outputs]
Arrays = dict[str, np.ndarray]


@cache
def waves(shape: tuple[int, ...], number: int) -> np.ndarray:
    """What every row of an output has in common."""
    return 2 + np.sin(np.arange(np.prod(shape)).reshape(shape) + 3 * number)


def telling(graph: str) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """Answers in which every number differs from its neighbours', from other rows' and other outputs'.

    What was asked before, as nearly all of a certificate is by the one before it, is not worked out again.
    """
    known: dict[tuple[bytes, ...], Arrays] = {}

    def answer(inputs: Mapping[str, np.ndarray]) -> Arrays:
        key = tuple(x.tobytes() for x in inputs.values())
        if key not in known:
            known[key] = worked_out(inputs)
        return known[key]

    def worked_out(inputs: Mapping[str, np.ndarray]) -> Arrays:
        first = next(iter(inputs.values()))
        axes = dict.fromkeys("nbkpq", len(first))
        told = sum(np.tanh(x.reshape(len(x), -1)).mean(1, dtype=float) for x in inputs.values())
        made = {}
        for number, (name, spec) in enumerate(SPECS[graph].outputs.items()):
            shape = spec.bind(axes)
            rows = np.asarray(told, float).reshape(-1, *[1] * (len(shape) - 1))
            # Rows of a batch are told apart by number too: the middle slice looks alike from both sides.
            index = np.arange(shape[0]).reshape(rows.shape)
            made[name] = waves(shape[1:], number) + 0.1 * np.tanh(rows) + 0.3 * index
        if graph == "mask_decoder":
            made["low_res_masks"] -= 2
            made["ious"] = 0.5 + 0.1 * made["ious"]
        return {name: array.astype(np.float32) for name, array in made.items()}

    return answer


TELLING = {graph: telling(graph) for graph in GRAPHS}


def like(name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Another output of the same shape, or this one turned upside down where there is none."""
    others = [x for other, x in outputs.items() if other != name]
    return next(
        (x.copy() for x in others if x.shape == outputs[name].shape),
        outputs[name].reshape(-1)[::-1].reshape(outputs[name].shape).copy(),
    )


def one_nan(name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output with its last number spoiled."""
    spoiled = outputs[name].copy()
    spoiled.flat[-1] = np.nan
    return spoiled


MUTATIONS: dict[str, Callable[[str, Mapping[str, np.ndarray]], Any]] = {
    "nan": one_nan,
    "infinite": lambda name, o: -np.inf,
    "zero": lambda name, o: 0.0,
    "constant": lambda name, o: o[name].mean() + (0.01 if o[name].size == 1 else 0),
    "higher": lambda name, o: o[name] + 0.01 * np.abs(o[name]).max(),
    "a pixel on": lambda name, o: np.roll(o[name], 1, -1) + (0.01 if o[name].size == 1 else 0),
    "rows swapped": lambda name, o: o[name][::-1],
    "another output": lambda name, o: like(name, o),
}
ROWS = "rows swapped"
CASES = [
    (graph, name, kind)
    for graph, name in OUTPUTS
    for kind in MUTATIONS
    if kind != ROWS or graph != "image_encoder"  # on the host it gets one slice at a time
]


class Mutant:
    """A back end one output of which goes wrong from a run on, counted over runs of its graph."""

    def __init__(self, model: Model, graph: str, name: str, mutate: Any, since: int) -> None:
        self.device_memory, self.steps = model.device_memory, model.steps
        self.description = "mutant"
        self._model, self._graph, self._name = model, graph, name
        self._mutate, self._since = mutate, since
        self.runs = self.changed = 0

    def load(self, graph: str) -> Engine:
        engine = self._model.engine(graph)
        return engine if graph != self._graph else Wrong(self, engine)

    def spoil(self, outputs: Mapping[str, np.ndarray]) -> None:
        if self.runs >= self._since:
            before = outputs[self._name].copy()
            outputs[self._name][...] = self._mutate(self._name, dict(outputs))
            self.changed += not np.array_equal(before, outputs[self._name])
        self.runs += 1

    def close(self) -> None:
        """Nothing is held."""


class Wrong:
    def __init__(self, mutant: Mutant, engine: Engine) -> None:
        self._mutant, self._engine = mutant, engine

    def run(self, inputs: Any, outputs: Any) -> None:
        self._engine.run(inputs, outputs)
        self._mutant.spoil(outputs)


def certified(graph: str, name: str, mutate: Any, since: int) -> tuple[dict[str, Any], Mutant]:
    reference, _ = fake_model(TELLING)
    mutant = Mutant(fake_model(TELLING)[0], graph, name, mutate, since)
    candidate = Model(FAKE_NUMBERS, mutant, reference.constants)
    return compare_models(reference, candidate, BAR, SLICES), mutant


def runs_of(graph: str) -> int:
    return certified(graph, next(iter(SPECS[graph].outputs)), None, 10**9)[1].runs


def test_an_unspoiled_model_passes() -> None:
    found, mutant = certified("mask_decoder", "ious", None, 10**9)
    assert found["passed"] and mutant.runs > 0 and not mutant.changed


@pytest.fixture(scope="module")
def runs() -> dict[str, int]:
    """Of each graph over a whole certificate."""
    return {
        graph: certified(graph, next(iter(SPECS[graph].outputs)), None, 10**9)[1].runs
        for graph in GRAPHS
    }


@pytest.mark.parametrize(("graph", "name", "kind"), CASES)
def test_a_wrong_output_fails_from_any_run_on(
    graph: str, name: str, kind: str, runs: dict[str, int]
) -> None:
    found, mutant = certified(graph, name, MUTATIONS[kind], 0)
    assert mutant.changed, "the mutation does something"
    assert not found["graphs"][graph][name]["passed"] and not found["passed"]
    json.dumps(found, allow_nan=False)
    # In lockstep, when two objects are followed, and in the propagation after it, that is free.
    for share in (0.25, 0.75) if kind in ("nan", "higher") else (0.75,):
        found, mutant = certified(graph, name, MUTATIONS[kind], int(share * runs[graph]))
        assert mutant.changed and not found["passed"]
        json.dumps(found, allow_nan=False)
