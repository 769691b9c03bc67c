"""Protobuf's wire format, as far as reading an ONNX graph without the `onnx` package takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: by which the message knows it.
        start, stop: where it lies in the message, its tag included.
        value: a number, or the bytes of a text or of a message within; None for a number of fixed size.
    """

    number: int
    start: int
    stop: int
    value: int | memoryview | None


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message as they lie. Raises ValueError for what is none, IndexError for what ends too soon."""
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        kind = tag & 7
        value: int | memoryview | None = None
        if kind == VARINT:
            value, at = varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        elif kind == LENGTH:
            size, at = varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than what holds it")
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"a field is of kind {kind}, which ONNX has not")
        yield Field(tag >> 3, start, at, value)


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends. Raises ValueError for one that does not end, IndexError where the data does."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
        if shift >= 70:
            raise ValueError("a number has more than ten bytes")


def written_varint(number: int) -> bytes:
    """A number as it is written."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def written(number: int, value: int | bytes) -> bytes:
    """A field as it is written: a number, or bytes behind their length."""
    if isinstance(value, int):
        return written_varint(number << 3 | VARINT) + written_varint(value)
    return written_varint(number << 3 | LENGTH) + written_varint(len(value)) + value
