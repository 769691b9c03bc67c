"""Programs in operators that can be translated: each rule alone, what is left to PyTorch, and whole exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from export import translatable as rules
from export.to_onnx import OPSET, _quiet_tracer, _translations_read_once
from export.translatable import RULES, translatable, without_decomposing

KERNEL = torch.linspace(-1, 1, 4 * 3 * 2 * 2).reshape(4, 3, 2, 2)
BIAS = torch.linspace(-1, 1, 6)


def grey(x: Tensor) -> Tensor:
    """Four channels of one."""
    return x[:, 0, None].expand(-1, 4, -1, -1)


def enlarged(x: Tensor) -> Tensor:
    return nn.functional.conv_transpose2d(grey(x), KERNEL, stride=2)


def enlarged_in_groups(x: Tensor) -> Tensor:
    return nn.functional.conv_transpose2d(grey(x), KERNEL, BIAS, 3, 1, 2, 2, 3)


# What is computed of a tensor (b, k, 4, 6), b and k of open length, and in which of the operators there is a rule for.
CASES: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "all axes but one as one": (lambda x: x.flatten(0, 2), ["reshape"]),
    "axes as one, beside another of open length": (lambda x: x.flatten(1, 2), ["reshape"]),
    "more axes than inputs have": (lambda x: x.repeat(2, 2, 1, 1).flatten(2, 3), ["flatten"]),
    "the shape that it has": (lambda x: x.reshape(x.shape) + 1, []),
    "an axis as two": (lambda x: x.unflatten(3, (2, -1)), ["reshape"]),
    "no axis of open length": (lambda x: x[0, 0].flatten(), ["reshape"]),
    "what has to be copied": (lambda x: x.transpose(2, 3).reshape(-1, 8), ["reshape"]),
    "transposed": (lambda x: x[0, 0].T, ["permute"]),
    "an axis moved to the end": (lambda x: x.movedim(1, -1), ["permute"]),
    "an axis moved to the front": (lambda x: x.movedim(-1, 0), ["permute"]),
    "of another type": (lambda x: (3 * x).to(torch.int64), ["_to_copy"]),
    "of the type that it has": (lambda x: x.to(torch.float32) + 1, []),
    "a result of the type that it has": (lambda x: (2 * x).to(torch.float32), ["clone"]),
    "the whole of an axis": (lambda x: x[:, : x.shape[1]] + 1, []),
    "part of an axis": (lambda x: x[:, :, 1:4], ["slice"]),
    "every other one of an axis": (lambda x: x[:, :, ::2], ["slice"]),
    "one or the other": (lambda x: (x > 1) | (x < 0), ["bitwise_or"]),
    "enlarged": (enlarged, ["convolution"]),
    "enlarged in groups": (enlarged_in_groups, ["convolution"]),
    "a number": (lambda x: x * x[0, 0, 0].amax().item(), ["_local_scalar_dense"]),
}


class Computes(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def traced(function: Callable[[Tensor], Any]) -> ExportedProgram:
    axes = {axis: Dim(name, min=1, max=64) for axis, name in enumerate("bk")}
    return torch.export.export(
        Computes(function), (torch.ones(2, 3, 4, 6),), dynamic_shapes=({0: axes[0], 1: axes[1]},)
    )


def given(b: int, k: int) -> Tensor:
    return torch.randn(b, k, 4, 6, generator=torch.Generator().manual_seed(b + k))


def operators(program: ExportedProgram) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def name_of(target: Any) -> str:
    return str(target).split(".")[1]


@pytest.mark.parametrize("name", CASES)
def test_what_takes_its_place_computes_the_same_at_every_length(name: str) -> None:
    function, wanted = CASES[name]
    program = traced(function)
    assert set(operators(program)) & RULES.keys(), "there is something to do"
    assert translatable(program, lambda target: True)
    told = {name_of(rule) for rule in RULES}.union(*(after for _, after in CASES.values()))
    assert [x for x in map(name_of, operators(program)) if x in told] == wanted
    for b, k in ((2, 3), (5, 1), (1, 4)):
        assert torch.equal(program.module()(given(b, k)), function(given(b, k)))


def test_every_rule_has_a_case() -> None:
    program = traced(lambda x: [function(x) for function, _ in CASES.values()])
    assert set(operators(program)) >= RULES.keys()


def written_into(x: Tensor) -> Tensor:
    return (x.clone().add_(1)).flatten(0, 2)


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        (lambda x: x.erfc().flatten(0, 2), "erfc"),
        (CASES["more axes than inputs have"][0], "flatten"),
        (CASES["every other one of an axis"][0], "slice"),
        (written_into, None),
    ],
    ids=["no translation", "flattened as it is", "sliced as it is", "written into"],
)
def test_a_program_that_needs_more_is_left_as_it_is(
    function: Callable[[Tensor], Any], unknown: str | None
) -> None:
    program = traced(function)
    before = operators(program)
    assert not translatable(program, lambda target: name_of(target) != unknown)
    assert operators(program) == before


class Decomposed(Exception):
    """It was asked for."""


@pytest.fixture
def decomposing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> ExportedProgram:
        raise Decomposed

    monkeypatch.setattr(ExportedProgram, "run_decompositions", fails)


def export(function: Callable[[Tensor], Any]) -> onnxruntime.InferenceSession:
    with _quiet_tracer(), _translations_read_once(), without_decomposing():
        made = torch.onnx.export(
            traced(function), (), opset_version=OPSET, optimize=False, verbose=False
        )
    assert made is not None
    return onnxruntime.InferenceSession(
        made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("is_decomposed", [False, True])
def test_an_export_either_way_is_the_same(
    is_decomposed: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_decomposed:
        monkeypatch.setattr(rules, "translatable", lambda program, is_translated: False)
    else:
        request.getfixturevalue("decomposing_fails")
    function = CASES["enlarged in groups"][0]
    x = given(4, 2)
    (found,) = export(function).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, function(x).numpy(), atol=1e-6)


def test_what_is_left_is_decomposed(decomposing_fails: None) -> None:
    with pytest.raises(Exception, match="decompose") as failed:
        export(written_into)
    assert isinstance(failed.value.__cause__, Decomposed)


def test_an_exporter_made_otherwise_does_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.onnx._internal.exporter import _fx_passes

    monkeypatch.delattr(_fx_passes, "decompose_with_registry")
    with without_decomposing():
        assert not hasattr(_fx_passes, "decompose_with_registry")
