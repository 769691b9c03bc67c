"""A traced program in operators that have a translation into ONNX, without tracing it again.

PyTorch's exporter gets there by `run_decompositions`, which traces the program twice more. Of what our networks consist
of only a few operators have no translation, or one that computes shapes as it runs, and each of them is another
operator with other arguments. A program with anything else in it goes PyTorch's way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

aten = torch.ops.aten
LENGTH = aten.sym_size.int


class Call(NamedTuple):
    """What takes the place of a node's own call."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Rule = Callable[[Node], "Call | Node"]
"""From a node to the call in its place, to the node whose value it has, or to itself where it can stay."""


def without_decomposing() -> AbstractContextManager[Any]:
    """PyTorch's exporter, which decomposes only what `translatable` leaves. One made otherwise does as it likes."""
    try:
        from torch.onnx._internal.exporter import _fx_passes

        decompose = _fx_passes.decompose_with_registry
    except (ImportError, AttributeError):
        return nullcontext()

    def prepared(program: ExportedProgram, registry: Any) -> ExportedProgram:
        if translatable(program, registry.is_registered):
            return program
        return decompose(program, registry)

    return mock.patch.object(_fx_passes, "decompose_with_registry", prepared)


def translatable(program: ExportedProgram, is_translated: Callable[[Any], bool]) -> bool:
    """Rewrite a program by `RULES`; False, and nothing is changed, where that is not enough.

    Args:
        program: what `torch.export` has traced.
        is_translated: of an operator, whether the exporter has a translation for it.
    """
    graph = program.graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if not all(_is_known(node.target, is_translated) for node in calls):
        return False
    for node in calls:
        rule = RULES.get(node.target)
        found = rule(node) if rule else node
        if found is node:
            continue
        if isinstance(found, Node) and any(user.op == "output" for user in node.users):
            found = Call(aten.clone.default, (found,), {})  # results keep their names
        if isinstance(found, Call):
            node.target, node.args, node.kwargs = found
        else:
            node.replace_all_uses_with(found)
    graph.eliminate_dead_code()
    graph.lint()
    return True


def _is_known(target: Any, is_translated: Callable[[Any], bool]) -> bool:
    if target in CHECKS or target is operator.getitem:
        return True
    if target in RULES and RULES[target] not in MAY_LEAVE:
        return True
    schema = getattr(target, "_schema", None)  # what writes into its input would have to be undone
    return is_translated(target) and not (schema and schema.is_mutable)


def _sizes(node: Node) -> list[Any]:
    """Sides of a node's tensor: numbers, and expressions of axes whose length is open."""
    return [side if isinstance(side, int) else side.node.expr for side in node.meta["val"].shape]


def _reshaped(node: Node) -> Call | Node:
    """Sides are numbers, axes of inputs and one -1: engines see more in it than in arithmetic on shapes."""
    given = node.args[0]
    assert isinstance(given, Node)
    sides = _sizes(node)
    if sides == _sizes(given):
        return given
    shape: list[Any] = []
    for side in sides:
        shape.append(side if isinstance(side, int) else _axis(node.graph, side))
    unknown = [i for i, side in enumerate(shape) if side is None]
    if len(unknown) > 1:
        return node
    if not unknown:
        unknown = [i for i, side in enumerate(shape) if isinstance(side, Node)][:1]
    for i in unknown:
        shape[i] = -1
    return Call(aten.reshape.default, (given, shape), {})


def _axis(graph: Graph, side: Any) -> Node | None:
    """A node that is the length of an input's axis; None if no input has such an axis.

    An input that the network reads nothing else of comes first: engines drop what a graph does not read.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    tensors = [node for node in inputs if isinstance(node.meta.get("val"), torch.Tensor)]
    having = [node for node in tensors if side in _sizes(node)]
    if not having:
        return None
    given = min(having, key=_is_read)
    where = _sizes(given).index(side)
    for user in given.users:
        if user.target is LENGTH and user.args == (given, where):
            return user
    with graph.inserting_after(inputs[-1]):
        made = graph.call_function(LENGTH, (given, where))
    made.meta["val"] = given.meta["val"].shape[where]
    return made


def _is_read(node: Node) -> bool:
    return any(user.target is not LENGTH for user in node.users)


def _transposed(node: Node) -> Call:
    given: Any = node.args[0]
    return Call(aten.permute.default, (given, [*reversed(range(len(_sizes(given))))]), {})


def _moved(node: Node) -> Call:
    given, source, destination = node.args
    order = [*range(len(_sizes(given)))]
    order.insert(range(len(order))[destination], order.pop(source))
    return Call(aten.permute.default, (given, order), {})


def _cast(node: Node) -> Call | Node:
    given, dtype = node.args[:2]
    assert isinstance(given, Node)
    if given.meta["val"].dtype == dtype:
        return given
    return Call(aten._to_copy.default, (given,), {"dtype": dtype})


def _sliced(node: Node) -> Node:
    """Of a whole axis nothing is cut off."""
    given = node.args[0]
    assert isinstance(given, Node)
    has_step = len(node.args) > 4 and node.args[4] != 1
    return node if has_step or _sizes(given) != _sizes(node) else given


def _upsampled(node: Node) -> Call:
    """A transposed convolution is one kind of convolution."""
    given, weight, *rest = node.args
    defaults = (None, [1, 1], [0, 0], [0, 0], 1, [1, 1])
    bias, stride, padding, beyond, groups, dilation = (*rest, *defaults[len(rest) :])
    args = (given, weight, bias, stride, padding, dilation, True, beyond, groups)
    return Call(aten.convolution.default, args, {})


def _either(node: Node) -> Call:
    return Call(aten.bitwise_or.Tensor, node.args, {})


def _number(node: Node) -> Call:
    return Call(aten._local_scalar_dense.default, node.args, {})


RULES: dict[Any, Rule] = {
    aten.flatten.using_ints: _reshaped,
    aten.unflatten.int: _reshaped,
    aten.reshape.default: _reshaped,
    aten.numpy_T.default: _transposed,
    aten.movedim.int: _moved,
    aten.to.dtype: _cast,
    aten.slice.Tensor: _sliced,
    aten.conv_transpose2d.input: _upsampled,
    aten.__or__.Tensor: _either,
    aten.item.default: _number,
}
MAY_LEAVE = (_reshaped, _sliced)
"""Rules that leave some nodes as they are, which then need a translation themselves."""
CHECKS = {aten._assert_tensor_metadata.default, aten._assert_scalar.default}
"""What the exporter leaves out."""
