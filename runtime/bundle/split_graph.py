"""Graphs larger than one protobuf message may be: their large weights lie in a file beside them.

That file is the bundle's own (`runtime.bundle.manifest.weights_file`), hashed like every other, and read whole: what an
engine gets are views of bytes that were checked, never a path. No weight may lie anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.external_data import EXTERNAL_DATA, has_external_data, is_external
from runtime.bundle.wire import Field, fields, varint, written

# Field numbers of onnx.proto3 (ONNX IR version 10).
GRAPH, INITIALIZER, INPUT = 7, 5, 11
DIMS, DATA_TYPE, NAME = 1, 2, 8
KEY, VALUE = 1, 2  # of an entry of `external_data`
DTYPES: Mapping[int, str] = {1: "float32", 7: "int64", 10: "float16"}


@dataclass(frozen=True, slots=True)
class OuterWeight:
    """A weight that lies beside its graph.

    Attributes:
        name: in the graph.
        code: of its type, as ONNX has it; a key of `DTYPES`.
        shape: of it.
        location: name of its file.
        offset, length: of its bytes there.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int

    def of(self, data: bytes) -> NDArray[np.generic]:
        """Its numbers, a view of the whole file's bytes. Raises ValueError where they are not all there."""
        dtype, count = np.dtype(DTYPES[self.code]), math.prod(self.shape)
        if self.length != count * dtype.itemsize or self.offset + self.length > len(data):
            raise ValueError(f"'{self.name}' does not lie within the weights beside the graph")
        return np.frombuffer(data, dtype, count, self.offset).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class SplitGraph:
    """A graph whose weights lie partly beside it.

    Attributes:
        whole: its bytes as they are.
        weights: what lies beside.
    """

    whole: bytes
    weights: Mapping[str, NDArray[np.generic]]

    def with_inputs(self) -> bytes:
        """The graph with those weights as inputs, for engines that take weights in no other way."""
        graph = next(f for f in fields(memoryview(self.whole)) if f.number == GRAPH)
        assert isinstance(graph.value, memoryview)
        kept, inputs = _cut(graph.value)
        body = kept + b"".join(written(INPUT, _described(weight)) for weight in inputs)
        return self.whole[: graph.start] + written(GRAPH, body) + self.whole[graph.stop :]


def outer_weights(graph: bytes) -> list[OuterWeight]:
    """The weights of a graph that lie in other files.

    Raises ValueError for what is no ONNX graph, and where anything but a weight of the graph itself, such as a constant
    or a weight within a loop, lies elsewhere.
    """
    try:
        found: list[OuterWeight] = []
        for field in fields(memoryview(graph)):
            if field.number != GRAPH or not isinstance(field.value, memoryview):
                if has_external_data(graph[field.start : field.stop]):
                    raise ValueError("what is no weight lies in another file")
                continue
            kept, weights = _cut(field.value)
            found += weights
            if has_external_data(written(GRAPH, kept)):
                raise ValueError("what is no weight lies in another file")
        return found
    except IndexError:
        raise ValueError("it ends in the middle of a field") from None


def _cut(graph: memoryview) -> tuple[bytes, list[OuterWeight]]:
    """A graph's message without the weights that lie elsewhere, and these."""
    kept, weights, at = [], [], 0
    for field in fields(graph):
        value = field.value
        if field.number != INITIALIZER or not isinstance(value, memoryview):
            continue
        own = list(fields(value))
        if any(is_external(part) for part in own):
            weights.append(_weight(own))
            kept.append(bytes(graph[at : field.start]))
            at = field.stop
    return b"".join([*kept, bytes(graph[at:])]), weights


def _weight(tensor: list[Field]) -> OuterWeight:
    name, code, shape, entries = "", 0, [], {}
    for field in tensor:
        value = field.value
        if field.number == DIMS:
            shape += _numbers(value)
        elif field.number == DATA_TYPE and isinstance(value, int):
            code = value
        elif field.number == NAME and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif field.number == EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {part.number: part.value for part in fields(value)}
            key, text = entry.get(KEY), entry.get(VALUE)
            if isinstance(key, memoryview) and isinstance(text, memoryview):
                entries[str(key, "utf-8")] = str(text, "utf-8")
    offset, length = entries.get("offset", "0"), entries.get("length", "")
    if code not in DTYPES or not (offset.isdecimal() and length.isdecimal()):
        raise ValueError(
            f"'{name}' lies in another file, and it is not said of what type and where"
        )
    return OuterWeight(
        name, code, tuple(shape), entries.get("location", ""), int(offset), int(length)
    )


def _numbers(value: int | memoryview | None) -> list[int]:
    """One number, or several that are packed."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while value is not None and at < len(value):
        number, at = varint(value, at)
        numbers.append(number)
    return numbers


def _described(weight: OuterWeight) -> bytes:
    """A weight as an input of a graph: its name, its type and its shape."""
    shape = b"".join(written(1, written(1, side)) for side in weight.shape)
    tensor = written(1, weight.code) + written(2, shape)
    return written(1, weight.name.encode()) + written(2, written(1, tensor))
