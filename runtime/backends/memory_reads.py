"""Where a bundle's memory attention reads memory, and whether it reads it as `kernels.memory_read` does.

A read is, as export/exact/memory_attention.py has it, one attention of one head over the values [w m, w], and the
division of its first M channels by the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernels.bfloat16 import from_bits
from kernels.pack_values import pack_values
from runtime.backends.bundle_graph import ELEMENTS, Foreign, Known, is_attention
from runtime.backends.typed_rules import FLOAT
from runtime.contract import ModelNumbers, graph_specs

if TYPE_CHECKING:
    import onnx

GRAPH = "memory_attention"
PACKED = ("memory", "memory_weight", "obj_ptrs", "obj_ptr_weight")
"""Inputs of the graph that values and weights are made of: arguments of `pack_values`."""
CHECKED_AXES = {"b": 2, "k": 2, "p": 3}


@dataclass(frozen=True, slots=True)
class Read:
    """Names of the tensors of one read.

    Attributes:
        query: (b, T, C).
        key: (b, N, C), N as in `ModelNumbers.num_keys`.
        result: float32 (b, T, M), the quotient.
    """

    query: str
    key: str
    result: str


class Flow:
    """Nodes of a graph that depend on its inputs, and which of them need which."""

    def __init__(self, source: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], known: Known):
        self.source, self.nodes, self.known = source, nodes, known
        self.makers = {name: node for node in nodes for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def users(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes that read a node's first output."""
        return self._users.get(node.output[0], [])

    def needed(self, wanted: Iterable[str], given: Iterable[str]) -> list[onnx.NodeProto]:
        """Nodes, in order, that make some tensors of others that are given and of constants."""
        made, found = set(given), set[str]()
        todo = [name for name in wanted if name not in made]
        while todo:
            name = todo.pop()
            if name in made or name not in self.makers:
                continue
            made.add(name)
            found.update(self.makers[name].output)
            todo.extend(self.makers[name].input)
        return [node for node in self.nodes if found & set(node.output)]

    def constants(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """Constants that nodes read, as initializers."""
        from onnx import numpy_helper

        known = self.known.constants
        names = dict.fromkeys(name for node in nodes for name in node.input if name in known)
        return [numpy_helper.from_array(known[name], name) for name in names]


def find_reads(flow: Flow, model: ModelNumbers) -> list[Read]:
    """Reads of memory in their order.

    Raises Foreign if there is none, or one that the kernels would not compute: of several heads, of another scale, not
    divided by its weights, or over anything else than what `kernels.pack_values` makes.
    """
    attentions = [node for node in flow.nodes if is_attention(node)]
    sliced = [n for n in attentions if any(user.op_type == "Slice" for user in flow.users(n))]
    if not sliced:
        raise Foreign("no attention is sliced, to be divided by its weights")
    for node in sliced:
        _check_attention(flow, node, model)
    values = {node.input[2] for node in sliced}
    if len(values) > 1:
        raise Foreign(f"memory is read as {' and '.join(sorted(values))}, wanted one value for all")
    _check_value(flow, values.pop(), model)
    return [Read(n.input[0], n.input[1], _quotient(flow, n, model)) for n in sliced]


def _check_attention(flow: Flow, node: onnx.NodeProto, model: ModelNumbers) -> None:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads, scale = attributes.get("num_heads"), attributes.get("scale") or model.d_model**-0.5
    width = flow.known.widths.get(node.input[0])
    if len(node.input) != 3 or heads != 1 or width != model.d_model:
        raise Foreign(
            f"{node.name} has {len(node.input)} inputs, {heads} heads and {width} channels; "
            f"wanted query, key and value, one head, {model.d_model} channels"
        )
    if not np.isclose(scale, model.d_model**-0.5):
        raise Foreign(f"{node.name} has scale {scale}; wanted {model.d_model}^-0.5")


def _quotient(flow: Flow, node: onnx.NodeProto, model: ModelNumbers) -> str:
    """Of an attention's result without its last channel, and that one."""
    slices = flow.users(node)
    divisions = {user.output[0]: user for each in slices for user in flow.users(each)}
    every = list(range(model.mem_dim + 1))
    taken = {each.output[0]: _channels(flow, each, every) for each in slices}
    for name, division in divisions.items():
        parts = [taken.get(part) for part in division.input]
        if len(divisions) == 1 and division.op_type == "Div" and parts == [every[:-1], every[-1:]]:
            return str(name)
    raise Foreign(f"{node.name} is sliced, but not into its values and what they are divided by")


def _channels(flow: Flow, node: onnx.NodeProto, every: list[int]) -> list[int] | None:
    """What a slice leaves of the last axis; None where it cuts another, or is none."""
    constants = [flow.known.constants.get(name) for name in node.input[1:]]
    numbers = [int(each.item()) for each in constants if each is not None and each.size == 1]
    if node.op_type != "Slice" or len(numbers) != 4 or numbers[2] not in (-1, 2):
        return None
    start, stop, _, step = numbers
    return every[start:stop:step]


def _check_value(flow: Flow, value: str, model: ModelNumbers) -> None:
    """Compute values of numbers that round nowhere, as the graph does and as the kernel does, and compare."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(0, 5, each.bind(CHECKED_AXES)).astype(each.dtype)
        for name, each in graph_specs(model)[GRAPH].inputs.items()
    }
    output = helper.make_tensor_value_info(value, ELEMENTS[FLOAT], None)
    nodes = flow.needed([value], inputs)
    graph = helper.make_graph(
        nodes, "value", flow.source.graph.input, [output], flow.constants(nodes)
    )
    imports = flow.source.opset_import
    (found,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, inputs)
    if not np.array_equal(found, _weighted(inputs)):
        raise Foreign(f"{value} is read as memory, and is not what kernels.pack_values makes")


def _weighted(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """[w m, w] (b, N, M + 1) of what the kernel makes."""
    packed = pack_values(*(inputs[name] for name in PACKED))
    weight = packed["weight"][..., None]
    return np.concatenate([from_bits(packed["value"]) * weight, weight], -1)
