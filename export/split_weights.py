"""Large weights of a graph that is larger than one protobuf message may be, for a file beside it.

How they are read again: `runtime.bundle.split_graph`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from runtime.bundle.manifest import MAX_GRAPH_BYTES

LEAST_BYTES = 2**20  # of a weight that is taken out
ALIGNMENT = 4096  # of each, a page, as ONNX advises


def is_too_large(model: onnx.ModelProto) -> bool:
    """Whether a graph cannot be one file."""
    return sum(len(weight.raw_data) for weight in model.graph.initializer) > MAX_GRAPH_BYTES


def detached(model: onnx.ModelProto, location: str) -> Iterator[bytes]:
    """Take large weights out of a graph, in which they refer to a file from then on.

    Args:
        model: the graph, which is changed.
        location: name of the file beside it.

    Yields what is to be written into that file, one after the other.
    """
    offset = 0
    for weight in model.graph.initializer:
        if len(weight.raw_data) < LEAST_BYTES:
            continue
        data: bytes = weight.raw_data
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", len(data))):
            entry = weight.external_data.add()
            entry.key, entry.value = key, str(value)
        yield data
        padding = -len(data) % ALIGNMENT
        yield bytes(padding)
        offset += len(data) + padding
