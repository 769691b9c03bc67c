from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from export.model.sam2 import Sam2
from export.torch_backend import torch_model
from tests.graph_inputs import graph_inputs, relative_error

AXES = {"n": 1, "b": 2, "k": 3, "p": 4, "q": 2}
GRAPHS = ["image_encoder", "memory_attention", "mask_decoder", "memory_encoder"]


@pytest.mark.parametrize(
    ("precision", "said"),
    [(None, "fp32"), (torch.bfloat16, "torch.bfloat16 autocast"), (torch.float64, "fp64")],
)
def test_a_model_on_the_host_says_so(toy: Sam2, precision: Any, said: str) -> None:
    assert torch_model(toy, precision).backend.description.endswith(f"CPU, {said}")


@pytest.mark.parametrize("graph", GRAPHS)
def test_in_float64_rounding_happens_between_graphs_alone(toy: Sam2, graph: str) -> None:
    inputs = graph_inputs(toy.numbers, graph, AXES)
    plain, exact, again = (
        torch_model(toy, precision).run(graph, dict(inputs))
        for precision in (None, torch.float64, torch.float64)
    )
    for name, right in exact.items():
        assert np.asarray(right).dtype == np.float32
        np.testing.assert_array_equal(right, again[name])
        assert relative_error(np.asarray(plain[name]), np.asarray(right)) < 1e-4
    own = next(toy.parameters())
    assert own.dtype == torch.get_default_dtype() == torch.float32, "the model given stays"


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_part_of_the_model_follows_it_to_a_device(toy: Sam2, graph: str) -> None:
    """Computed without values: a table left on the host would be refused."""
    model = copy.deepcopy(toy).to("meta")
    methods = dict(
        zip(GRAPHS, (model.encode, model.condition, model.decode, model.memorise), strict=True)
    )
    inputs = {
        name: torch.from_numpy(array).to("meta")
        for name, array in graph_inputs(toy.numbers, graph, AXES).items()
    }
    with torch.inference_mode(), _AllOne():
        found = methods[graph](**inputs)
    tensors = found if isinstance(found, tuple) else (found,)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


class _AllOne(torch.overrides.TorchFunctionMode):
    """Whether all weights are one cannot be asked of tensors without values."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return True if function is torch.Tensor.all else function(*args, **(kwargs or {}))


@pytest.mark.gpu
@pytest.mark.parametrize("graph", GRAPHS)
def test_cuda_computes_what_the_host_does(toy: Sam2, graph: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device here")
    inputs = graph_inputs(toy.numbers, graph, AXES)
    host, device = (torch_model(toy, None, where).run(graph, inputs) for where in ("cpu", "cuda"))
    for name, right in host.items():
        assert relative_error(np.asarray(device[name]), np.asarray(right)) < 1e-2
    assert next(toy.parameters()).device.type == "cpu", "the model given stays where it was"
