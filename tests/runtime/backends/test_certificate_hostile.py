"""Back ends that compute nearly everything right, and what a certificate makes of them: nobody passes by chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import GRAPHS
from runtime.devices.engine import Engine
from runtime.measure.lockstep import RMS_SHARE, compare_tensors, error_of
from runtime.measure.parity import LOWEST_DICE, LOWEST_DICE_REDUCED, Criteria, compare_models
from runtime.model import Model
from tests.fakes import FAKE_NUMBERS, fake_model
from tests.runtime.backends.test_certificate_mutations import TELLING as MANY_NUMBERS

SLICES = 20  # enough for three prompted slices and six tracked ones
BAR = Criteria(dict.fromkeys(GRAPHS, 1e-4), LOWEST_DICE, decides_alike=True)
NO_MASKS = Criteria(dict.fromkeys(GRAPHS, 1e-2), None, decides_alike=False)
Arrays = dict[str, np.ndarray]
NO_TIME, TEMPLATE = FAKE_NUMBERS.no_time, FAKE_NUMBERS.num_maskmem - 1


def telling(graph: str) -> Callable[[Arrays], Arrays]:
    """Answers with many different numbers that grow with every number of every input."""

    def answer(inputs: Arrays) -> Arrays:
        outputs = MANY_NUMBERS[graph](inputs)
        rows = len(next(iter(inputs.values())))
        marks = [
            number * np.tanh(x.reshape(rows, -1), dtype=np.float32).mean(1)
            for number, x in enumerate(inputs.values(), 1)
        ]
        mark = 0.02 * np.sum(marks, axis=0)
        return {
            name: (x * (1 + mark.reshape(-1, *[1] * (x.ndim - 1)))).astype(np.float32)
            for name, x in outputs.items()
        }

    return answer


TELLING = {graph: telling(graph) for graph in GRAPHS}


class Hostile:
    """A back end in which one graph is run by somebody else."""

    def __init__(self, graph: str, run: Callable[[Engine, Arrays, Arrays], None]) -> None:
        self._inner, self._graph, self._run = fake_model(TELLING)[0].backend, graph, run
        self.device_memory, self.steps = self._inner.device_memory, self._inner.steps
        self.description = "hostile"

    def load(self, graph: str) -> Any:
        engine = self._inner.load(graph)
        return Somebody(engine, self._run) if graph == self._graph else engine

    def close(self) -> None:
        """Nothing is held."""


class Somebody:
    def __init__(self, engine: Engine, run: Callable[[Engine, Arrays, Arrays], None]) -> None:
        self._engine, self._run = engine, run

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        self._run(self._engine, inputs, outputs)


def certified(
    graph: str, run: Callable[[Engine, Arrays, Arrays], None], bar: Criteria = BAR
) -> dict[str, Any]:
    reference, _ = fake_model(TELLING)
    return compare_models(reference, reference.on(Hostile(graph, run)), bar, SLICES)


def ignoring(name: str, value: Any) -> Callable[[Engine, Arrays, Arrays], None]:
    """An engine to which an input is always the same."""

    def run(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        engine.run({**inputs, name: np.full_like(inputs[name], value)}, outputs)

    return run


def slips(
    graph: str, when: Callable[[Arrays], Any]
) -> tuple[str, Callable[[Engine, Arrays, Arrays], None]]:
    """An engine that is one per cent off for some inputs."""

    def run(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        engine.run(inputs, outputs)
        if when(inputs):
            for array in outputs.values():
                array *= np.float32(1.01)

    return graph, run


def test_one_that_computes_what_it_should_passes() -> None:
    found = certified(*slips("memory_attention", lambda inputs: False))
    assert found["passed"] and "faults" not in found


@pytest.mark.parametrize(
    ("graph", "name", "value"),
    [
        ("memory_attention", "memory_time", 0),
        ("memory_attention", "memory_weight", 1),
        ("memory_attention", "obj_ptr_weight", 1),
        ("memory_attention", "obj_ptr_pos", 0),
        ("memory_attention", "obj_ptrs", 0),
        ("mask_decoder", "multimask", True),
        ("mask_decoder", "multimask", False),
        ("mask_decoder", "has_mask_input", False),
        ("mask_decoder", "mask_input", 0),
        ("mask_decoder", "add_no_mem_embed", False),
        ("mask_decoder", "add_no_mem_embed", True),
        ("mask_decoder", "point_labels", 1),
        ("mask_decoder", "point_coords", 0),
        ("memory_encoder", "binarize", True),
        ("memory_encoder", "binarize", False),
        ("memory_encoder", "object_score_logits", 0),
    ],
)
def test_no_input_can_be_ignored(graph: str, name: str, value: Any) -> None:
    assert not certified(graph, ignoring(name, value))["passed"]


def _reads_several_templates(inputs: Arrays) -> Any:
    is_template = (inputs["memory_time"] == TEMPLATE) & (inputs["memory_weight"] > 0)
    return (is_template.sum(1) > 1).any()


@pytest.mark.parametrize(
    ("graph", "when"),
    [
        *((graph, lambda inputs: len(next(iter(inputs.values()))) > 4) for graph in GRAPHS[1:]),
        ("memory_attention", lambda inputs: len(inputs["memory"]) == 8),
        ("memory_attention", lambda inputs: inputs["memory"].shape[1] > 8),
        ("memory_attention", _reads_several_templates),
        ("memory_attention", lambda inputs: (inputs["memory_time"] == NO_TIME).any()),
        ("memory_attention", lambda inputs: (inputs["memory_weight"] == 0).any()),
        ("memory_attention", lambda inputs: (inputs["memory_weight"] > 1).any()),
        (
            "mask_decoder",
            lambda i: i["has_mask_input"].any() and (i["point_labels"] >= 0).any(),
        ),
        (
            "mask_decoder",
            lambda i: (i["point_labels"] >= 0).any() and not i["add_no_mem_embed"].any(),
        ),
    ],
)
def test_what_goes_wrong_for_some_inputs_alone_is_seen(graph: str, when: Any) -> None:
    assert not certified(*slips(graph, when))["passed"]


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_output_that_is_not_written_is_never_what_lay_there(graph: str) -> None:
    def lazy(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        last = list(outputs)[-1]
        engine.run(inputs, {**outputs, last: outputs[last].copy()})

    found = certified(graph, lazy)
    assert not found["passed"]
    *_, last = found["graphs"][graph].values()
    assert "NaN" in last["reason"], "and not by luck"


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_that_writes_into_its_inputs_fails_and_does_not_lead_the_reference_astray(
    graph: str,
) -> None:
    def spoils(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        engine.run(inputs, outputs)
        name = next(iter(inputs))
        inputs[name] += np.float32(0.25)

    found = certified(graph, spoils, NO_MASKS)
    assert not found["passed"]
    assert found["faults"][0].startswith(f"{graph} changes its input")
    assert all(output["passed"] for output in found["graphs"][graph].values())


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_that_writes_into_what_it_has_given_fails(graph: str) -> None:
    given: list[np.ndarray] = []

    def late(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        for array in given:
            array += np.float32(0.25)
        engine.run(inputs, outputs)
        given[:] = outputs.values()

    found = certified(graph, late, NO_MASKS)
    assert not found["passed"] and f"that {graph} had given" in found["faults"][0]


def test_answers_that_depend_on_chance_fail() -> None:
    rng = np.random.default_rng(0)

    def noisy(engine: Engine, inputs: Arrays, outputs: Arrays) -> None:
        engine.run(inputs, outputs)
        if rng.random() < 0.1:
            outputs["memory"][0] *= np.float32(1.01)

    assert not certified("memory_encoder", noisy)["passed"]


def test_beside_one_large_number_the_others_are_not_small() -> None:
    truth = np.ones((1, 100), np.float32)
    truth[0, 0] = 50.0
    found = truth + np.float32(0.5)
    found[0, 0] = 50.0
    result = compare_tensors(found, truth, LOWEST_DICE_REDUCED)
    assert result["passed"] and result["relative_error"] == pytest.approx(0.01)
    result = compare_tensors(found, truth, 3e-2)
    assert not result["passed"]
    assert result["relative_rms_error"] > 0.09
    assert error_of(result) == pytest.approx(result["relative_rms_error"] / RMS_SHARE)


def test_one_number_may_be_off_by_more_than_all_of_them() -> None:
    truth = np.ones((100, 100), np.float32)
    found = truth.copy()
    found[0, 0] += 0.05  # as the processor adds up
    assert compare_tensors(found, truth, 6e-2)["passed"]
    assert not compare_tensors(truth + np.float32(0.05), truth, 6e-2)["passed"]


def test_a_model_on_another_back_end_keeps_its_numbers() -> None:
    model, backend = fake_model()
    other = model.on(Hostile("mask_decoder", ignoring("multimask", True)))
    assert isinstance(other, Model) and other.numbers is model.numbers
    assert other.constants is model.constants and model.backend is backend
