"""Does an ONNX graph keep weights in other files? Engines would read those unchecked, from the current folder at best.

A walk over the protobuf's wire format, since the runtime does without the `onnx` package. Field numbers are those of
onnx.proto3 (ONNX IR version 10); what is no tensor and holds none is passed over by its length.
"""

from __future__ import annotations

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
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
MAX_DEPTH = 100  # as protobuf's own


def has_external_data(graph: bytes) -> bool:
    """Whether a tensor anywhere in a model lies in another file. Raises ValueError for what is no protobuf."""
    try:
        return _walk(memoryview(graph), "model", 0)
    except IndexError:
        raise ValueError("it ends in the middle of a field") from None


def _walk(data: memoryview, message: str, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise ValueError(f"its messages are nested more than {MAX_DEPTH} deep")
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            if message == "tensor" and field == DATA_LOCATION and value == EXTERNAL:
                return True
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        elif kind == LENGTH:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than what holds it")
            if message == "tensor" and field == EXTERNAL_DATA:
                return True
            inner = FIELDS[message].get(field)
            if inner and _walk(data[at : at + size], inner, depth + 1):
                return True
            at += size
        else:
            raise ValueError(f"a field is of kind {kind}, which ONNX has not")
    return False


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
        if shift >= 70:
            raise ValueError("a number has more than ten bytes")
