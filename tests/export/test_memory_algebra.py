"""What the weights and times of slots and pointers mean, in the plain definition and on the exported graph."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from export.model.sam2 import Sam2
from tests.graph_inputs import Arrays, graph_inputs, relative_error, torch_inputs

TOLERANCE = 1e-4
ROWS, SLOTS, POINTERS = 2, 4, 5
SLOT_TENSORS = ("memory", "memory_time", "memory_weight")
POINTER_TENSORS = ("obj_ptrs", "obj_ptr_pos", "obj_ptr_weight")
WEIGHT = st.one_of(st.just(0.0), st.floats(0.0625, 16, width=32))


@pytest.fixture(params=["plain", "graph"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def inputs(toy: Sam2) -> Arrays:
    axes = {"b": ROWS, "k": SLOTS, "p": POINTERS}
    return graph_inputs(toy.numbers, "memory_attention", axes, seed=4)


def condition(graphs: Any, inputs: Arrays, form: str = "graph") -> np.ndarray:
    """By the exported graph, or by the definition that it was made from."""
    if form == "plain":
        return graphs.model.condition(**torch_inputs(inputs)).numpy()
    return graphs.run("memory_attention", inputs)["conditioned_features"]


def picked(inputs: Arrays, slots: list[int], pointers: list[int]) -> Arrays:
    """Inputs with these slots and pointers, in this order; indices may repeat."""
    out = dict(inputs)
    for names, index in ((SLOT_TENSORS, slots), (POINTER_TENSORS, pointers)):
        for name in names:
            out[name] = inputs[name][:, index]
    return out


def weighted(inputs: Arrays, slots: Any, pointers: Any) -> Arrays:
    """Inputs with these weights, the same in every row or given by row."""
    return {
        **inputs,
        "memory_weight": np.broadcast_to(np.float32(slots), (ROWS, SLOTS)).copy(),
        "obj_ptr_weight": np.broadcast_to(np.float32(pointers), (ROWS, POINTERS)).copy(),
    }


def test_what_is_read_matters(graphs: Any, inputs: Arrays) -> None:
    """Without this, every test below could pass on a graph that reads nothing."""
    everything = condition(graphs, inputs)
    for slots, pointers in (([0, 1, 2], [0, 1, 2, 3, 4]), ([0, 1, 2, 3], [0, 1, 2, 3])):
        assert relative_error(condition(graphs, picked(inputs, slots, pointers)), everything) > 1e-3
    later = {**inputs, "memory_time": (inputs["memory_time"] + 1) % 7}
    assert relative_error(condition(graphs, later), everything) > 1e-3
    farther = {**inputs, "obj_ptr_pos": inputs["obj_ptr_pos"] + np.float32(0.5)}
    assert relative_error(condition(graphs, farther), everything) > 1e-4


def test_weight_zero_is_leaving_the_slot_out(graphs: Any, inputs: Arrays, form: str) -> None:
    masked = condition(graphs, weighted(inputs, [1, 0, 1, 0], [0, 1, 1, 0, 1]), form)
    without = condition(graphs, picked(inputs, [0, 2], [1, 2, 4]), form)
    assert relative_error(masked, without) < TOLERANCE


def test_the_content_of_a_slot_of_weight_zero_does_not_show(
    graphs: Any, inputs: Arrays, form: str
) -> None:
    masked = weighted(inputs, [1, 0, 1, 1], [1, 1, 0, 1, 1])
    before = condition(graphs, masked, form)
    masked["memory"][:, 1] = masked["memory"][:, 0]
    masked["memory_time"][:, 1] = 0
    masked["obj_ptrs"][:, 2] = -3
    assert relative_error(condition(graphs, masked, form), before) < TOLERANCE


def test_all_pointers_may_have_weight_zero(graphs: Any, inputs: Arrays, form: str) -> None:
    first = condition(graphs, weighted(inputs, 1, 0), form)
    inputs["obj_ptrs"] = inputs["obj_ptrs"][:, ::-1].copy()
    assert np.isfinite(first).all()
    assert relative_error(condition(graphs, weighted(inputs, 1, 0), form), first) < TOLERANCE


def test_weight_n_is_n_copies(graphs: Any, inputs: Arrays, form: str) -> None:
    heavy = condition(graphs, weighted(inputs, [1, 3, 1, 2], [2, 1, 1, 1, 4]), form)
    copied = picked(inputs, [0, 1, 1, 1, 2, 3, 3], [0, 0, 1, 2, 3, 4, 4, 4, 4])
    assert relative_error(heavy, condition(graphs, copied, form)) < TOLERANCE


@pytest.mark.parametrize("weight", [1e-3, 0.5, 7.0, 1e3])
def test_equal_weights_are_no_weights(
    weight: float, graphs: Any, inputs: Arrays, form: str
) -> None:
    equal = condition(graphs, weighted(inputs, weight, weight), form)
    assert relative_error(equal, condition(graphs, inputs, form)) < TOLERANCE


@pytest.mark.parametrize("draw", [[2, 0, 2, 2], [1, 3, 0, 1], [3, 3, 3, 3], [3, 1, 0, 2]])
def test_a_draw_with_replacement_is_its_counts_as_weights(
    draw: list[int], graphs: Any, inputs: Arrays, form: str
) -> None:
    counts = np.bincount(draw, minlength=SLOTS)
    by_counts = condition(graphs, weighted(inputs, counts, 1), form)
    drawn = condition(graphs, picked(inputs, draw, list(range(POINTERS))), form)
    assert relative_error(by_counts, drawn) < TOLERANCE


def test_no_time_is_no_temporal_code(graphs: Any, inputs: Arrays, form: str) -> None:
    timeless = {**inputs, "memory_time": np.full((ROWS, SLOTS), graphs.model.numbers.no_time)}
    found = condition(graphs, timeless, form)
    without = with_codes_of_zero(graphs.model, slice(None)).condition(**torch_inputs(inputs))
    assert relative_error(found, without) < TOLERANCE
    assert relative_error(found, condition(graphs, inputs, form)) > 1e-3


def test_a_slot_may_have_no_time_beside_others_that_have(
    graphs: Any, inputs: Arrays, form: str
) -> None:
    times = np.array([[0, 3, 1, 6], [4, 5, 0, 0]])
    some_timeless = np.where(times == 0, graphs.model.numbers.no_time, times)
    found = condition(graphs, {**inputs, "memory_time": some_timeless}, form)
    first_is_zero = with_codes_of_zero(graphs.model, 0)
    wanted = first_is_zero.condition(**torch_inputs({**inputs, "memory_time": times}))
    assert relative_error(found, wanted) < TOLERANCE
    assert relative_error(condition(graphs, {**inputs, "memory_time": times}), wanted) > 1e-3


def with_codes_of_zero(model: Sam2, rows: int | slice) -> Sam2:
    changed = deepcopy(model)
    changed.maskmem_tpos_enc[rows] = 0
    return changed


def test_slots_may_come_in_any_order(graphs: Any, inputs: Arrays, form: str) -> None:
    inputs = weighted(inputs, [1, 0.5, 2, 0], [1, 3, 0, 0.25, 1])
    shuffled = picked(inputs, [2, 0, 3, 1], [4, 1, 0, 3, 2])
    in_order = condition(graphs, inputs, form)
    assert relative_error(condition(graphs, shuffled, form), in_order) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, (ROWS, SLOTS), elements=WEIGHT),
    arrays(np.float32, (ROWS, POINTERS), elements=WEIGHT),
)
def test_any_weights_are_log_weights_on_the_attention_logits(
    toy: Sam2, graphs: Any, slots: np.ndarray, pointers: np.ndarray
) -> None:
    slots[:, 0] = np.maximum(slots[:, 0], 0.0625)  # something must be read
    axes = {"b": ROWS, "k": SLOTS, "p": POINTERS}
    drawn = graph_inputs(toy.numbers, "memory_attention", axes, seed=4)
    inputs = weighted(drawn, slots, pointers)
    expected = toy.condition(**torch_inputs(inputs))
    assert relative_error(condition(graphs, inputs), expected) < TOLERANCE


def test_rows_read_their_own_slots_only(graphs: Any, inputs: Arrays) -> None:
    inputs = weighted(inputs, [[1, 0, 2, 1], [0, 1, 1, 0.5]], [[1, 0, 1, 2, 1], [0, 0, 0, 3, 1]])
    together = condition(graphs, inputs)
    for row in range(ROWS):
        alone = condition(graphs, {name: x[row : row + 1] for name, x in inputs.items()})
        assert relative_error(together[row : row + 1], alone) < TOLERANCE
