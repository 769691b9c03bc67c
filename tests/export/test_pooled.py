"""EfficientTAM's pooled reading of memories: its plain form, its graph, and upstream."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from export.exact.memory_attention import MemoryAttentionGraph
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import Variant
from tests.export.test_sam2 import ROWS, Pair, make_pair, test_conditioned_features_are_upstreams
from tests.graph_inputs import Arrays, graph_inputs, relative_error, torch_inputs
from tests.official import needs_efficient_tam
from tests.traced import traced
from tests.variants import TOY_VIT, TOY_VIT_1, TOY_VIT_2

__all__ = [
    "test_conditioned_features_are_upstreams"
]  # of several memories, forwards and in reverse

pytestmark = pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning")

TOLERANCE = 1e-4
POOLED = (TOY_VIT_1, TOY_VIT_2)


@pytest.fixture(
    scope="module",
    params=[pytest.param(row, id=row.name, marks=needs_efficient_tam) for row in POOLED],
)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param, 128)


@pytest.fixture(scope="module", params=POOLED, ids=lambda row: row.name)
def model(request: pytest.FixtureRequest) -> Sam2:
    return loaded(request.param)


def loaded(variant: Variant) -> Sam2:
    model = Sam2(variant)
    # As in test_family_propagation.py, with which the graph is shared.
    model.load_state_dict(random_state(model, seed=3))
    return model


def inputs_of(model: Sam2, weights: list[list[float]]) -> Arrays:
    axes = {"b": len(weights), "k": len(weights[0]), "p": 4}
    inputs = graph_inputs(model.numbers, "memory_attention", axes, seed=5)
    return {**inputs, "memory_weight": np.array(weights, np.float32)}


def plain(model: Sam2, inputs: Arrays) -> np.ndarray:
    return model.condition(**torch_inputs(inputs)).detach().numpy()


def row(inputs: Arrays, index: int, slots: list[int]) -> Arrays:
    """One row, with some of its slots."""
    alone = {name: x[index : index + 1] for name, x in inputs.items()}
    return alone | {name: alone[name][:, slots] for name in alone if name.startswith("memory")}


def test_one_memory_is_read_in_full(model: Sam2) -> None:
    whole = loaded(TOY_VIT)
    one, two = inputs_of(model, [[1.0]]), inputs_of(model, [[1.0, 1.0]])
    assert relative_error(plain(model, one), plain(whole, one)) < 1e-6
    assert relative_error(plain(model, two), plain(whole, two)) > 1e-2


def test_a_row_of_one_memory_beside_rows_of_several_is_as_it_is_alone(model: Sam2) -> None:
    """Weight-0 copies pad the shorter rows of a batch; they must not count as memories."""
    inputs = inputs_of(model, [[1, 1, 1], [0, 1, 0], [1, 0, 0.5], [2, 0, 0]])
    slots = [[0, 1, 2], [1], [0, 2], [0]]
    alone = np.concatenate([plain(model, row(inputs, i, slots[i])) for i in range(4)])
    assert relative_error(plain(model, inputs), alone) < TOLERANCE
    graph = MemoryAttentionGraph(model)(**torch_inputs(inputs)).detach().numpy()
    assert relative_error(graph, alone) < TOLERANCE


def test_the_exported_graph_decides_row_by_row(model: Sam2) -> None:
    import onnxruntime

    data = traced(model, "memory_attention").SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for weights in ([[1.0]], [[1, 1, 1]], [[1, 1, 1], [0, 0, 1]], [[0, 1], [1, 0]]):
        inputs = inputs_of(model, weights)
        (found,) = session.run(None, inputs)
        assert relative_error(found, plain(model, inputs)) < TOLERANCE


def test_no_mean_is_taken_of_more_than_five_axes(model: Sam2) -> None:
    """Of six OpenVINO takes it by a reference kernel: 42 of 72 ms of memory attention at 512 pixels in bf16."""
    graph = onnx.shape_inference.infer_shapes(traced(model, "memory_attention")).graph
    axes = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    assert means
    assert all(axes[node.input[0]] <= 5 for node in means)


@needs_efficient_tam
def test_the_first_tracked_slice_reads_its_only_memory_as_upstream_does(pair: Pair) -> None:
    numbers = pair.ours.numbers
    generator = torch.Generator().manual_seed(9)
    memory = torch.randn(ROWS, numbers.mem_dim, *pair.sizes[-1], generator=generator)
    pointer = torch.randn(ROWS, numbers.d_model, generator=generator)
    position = pair.theirs.memory_encoder.position_encoding(memory)
    prompted = {"maskmem_features": memory, "maskmem_pos_enc": [position], "obj_ptr": pointer}
    theirs = pair.theirs._prepare_memory_conditioned_features(
        frame_idx=1,
        is_init_cond_frame=False,
        current_vision_feats=pair.features,
        current_vision_pos_embeds=pair.positions,
        feat_sizes=pair.sizes,
        output_dict={"cond_frame_outputs": {0: prompted}, "non_cond_frame_outputs": {}},
        num_frames=4,
    )
    ours = pair.ours.condition(
        attended_features=pair.ours.encode(pair.images)[1],
        memory=memory.flatten(2).transpose(1, 2)[:, None],
        memory_time=torch.full((ROWS, 1), numbers.num_maskmem - 1),
        memory_weight=torch.ones(ROWS, 1),
        obj_ptrs=pointer[:, None],
        obj_ptr_pos=torch.zeros(ROWS, 1),
        obj_ptr_weight=torch.ones(ROWS, 1),
    )
    assert relative_error(ours, theirs) < TOLERANCE


def test_maps_of_an_odd_side_cannot_be_pooled() -> None:
    with pytest.raises(ValueError, match="144 is not a multiple of 32"):
        Sam2(TOY_VIT_1, 144)
