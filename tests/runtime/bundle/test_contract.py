from __future__ import annotations

from dataclasses import replace

import onnxruntime
import pytest

from runtime.bundle.bundle import open_bundle
from runtime.bundle.contract import GRAPHS, GraphSpec, TensorSpec, graph_specs
from tests.fakes import FAKE_NUMBERS

SPECS = graph_specs(FAKE_NUMBERS)
DECODER = SPECS["mask_decoder"]
DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def with_input(name: str, spec: TensorSpec) -> GraphSpec:
    return replace(DECODER, inputs={**DECODER.inputs, name: spec})


def with_output(name: str, spec: TensorSpec) -> GraphSpec:
    return replace(DECODER, outputs={**DECODER.outputs, name: spec})


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_embedded_graphs_are_as_agreed(graph: str) -> None:
    bundle = open_bundle()
    session = onnxruntime.InferenceSession(
        bundle.read_graph(graph), providers=["CPUExecutionProvider"]
    )
    found = GraphSpec(
        *(
            {each.name: TensorSpec(tuple(each.shape), DTYPES[each.type]) for each in tensors}
            for tensors in (session.get_inputs(), session.get_outputs())
        )
    )
    assert graph_specs(bundle.model)[graph].difference(found) is None


@pytest.mark.parametrize("graph", GRAPHS)
def test_names_of_axes_and_the_order_of_tensors_do_not_matter(graph: str) -> None:
    def renamed(tensors: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {
            name: replace(
                spec, shape=tuple("?" if isinstance(side, str) else side for side in spec.shape)
            )
            for name, spec in reversed(tensors.items())
        }

    spec = SPECS[graph]
    assert spec.difference(GraphSpec(renamed(spec.inputs), renamed(spec.outputs))) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (GraphSpec({}, DECODER.outputs), r"^inputs are \[\], contract says \['add_no_mem_embed'"),
        (GraphSpec(DECODER.inputs, {}), r"^outputs are \[\], contract says \['ious'"),
        (with_input("mood", TensorSpec(("b",))), r"^inputs are \[.*'mood'"),
        (
            with_input("point_coords", TensorSpec(("b", "q", 3))),
            r"^input 'point_coords' is float32\('b', 'q', 3\), contract says float32\('b', 'q', 2\)$",
        ),
        (with_input("point_coords", TensorSpec(("b", 4, 2))), r"is float32\('b', 4, 2\)"),
        (with_input("point_coords", TensorSpec(("b", "q", "x"))), r"is float32\('b', 'q', 'x'\)"),
        (with_input("point_coords", TensorSpec(("b", 2))), r"is float32\('b', 2\)"),
        (with_input("point_labels", TensorSpec(("b", "q"), "int32")), r"is int32\('b', 'q'\)"),
        (with_output("ious", TensorSpec(("b", 1))), r"^output 'ious' is float32\('b', 1\)"),
        (with_output("ious", TensorSpec(("b",), "float16")), r"is float16\('b',\)"),
    ],
)
def test_what_differs_is_said_with_what_was_agreed(found: GraphSpec, said: str) -> None:
    difference = DECODER.difference(found)
    assert difference is not None
    with pytest.raises(ValueError, match=said):
        raise ValueError(difference)
