"""Does an ONNX graph keep weights in other files? Engines would read those unchecked, from the current folder at best.

A walk over the protobuf's wire format, since the runtime does without the `onnx` package. Field numbers are those of
onnx.proto3 (ONNX IR version 10); what is no tensor and holds none is passed over by its length.
"""

from __future__ import annotations

from runtime.bundle.wire import Field, fields

# Message to its fields that hold messages which may hold tensors.
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1
MAX_DEPTH = 100  # as protobuf's own


def has_external_data(graph: bytes) -> bool:
    """Whether a tensor anywhere in a model lies in another file. Raises ValueError for what is no protobuf."""
    try:
        return _walk(memoryview(graph), "model", 0)
    except IndexError:
        raise ValueError("it ends in the middle of a field") from None


def is_external(field: Field) -> bool:
    """Whether a tensor's field says that its numbers lie in another file."""
    is_location = field.number == DATA_LOCATION and field.value == EXTERNAL
    return is_location or (field.number == EXTERNAL_DATA and isinstance(field.value, memoryview))


def _walk(data: memoryview, message: str, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise ValueError(f"its messages are nested more than {MAX_DEPTH} deep")
    for field in fields(data):
        if message == "tensor" and is_external(field):
            return True
        inner = FIELDS[message].get(field.number)
        if inner and isinstance(field.value, memoryview) and _walk(field.value, inner, depth + 1):
            return True
    return False
