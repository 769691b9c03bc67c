"""How files are damaged: bytes, header text and JSON, each from a seeded generator."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

HEADER_BYTES = 400
"""Where most damage goes: headers decide what the rest means (a NIfTI header has 348 bytes)."""
HEADER_SHARE = 0.7
INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    100,
    255,
    256,
    32767,
    -32768,
    65535,
    2**31 - 1,
    -(2**31),
    2**32,
    2**63 - 1,
)
NUMBERS = (
    *map(str, INTEGERS),
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "0.5",
    "-0.0",
    "0x10",
    "1e9",
    "٣",
    "1_0",
)
WORDS = (
    "", " ", "%s%s%n%n", "%99999d", "../x", "/dev/zero", "/dev/stdin", "LOCAL", "LIST", "True", "False", "1", "none",
    "raw", "gzip", "ascii", "hex", "bzip2", "big", "little", "float", "double", "short", "MET_FLOAT", "MET_UCHAR",
    "left-posterior-superior", "\0", "é", "A" * 5000, "NaN", "\\", "\n",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 1e308, 2**31, 2**64, 10**30, float("nan"), float("inf"), "", "abc", "1", "../x",
    "\0", [], {}, [1], [[1]], {"a": 1}, [None] * 3, "é" * 50, -0.0, 65536, -32768,
)  # fmt: skip


def damage(data: bytes, rng: Random) -> bytes:
    """One to three damages to bytes; the result differs from `data`."""
    while True:
        damaged = data
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damaged = rng.choice(BYTE_DAMAGES)(damaged, rng)
        if damaged != data:
            return damaged


def damage_text(data: bytes, rng: Random, end: int | None = None) -> bytes:
    """One to three damages to the words, numbers and lines of a text header, the first `end` bytes of `data`."""
    end = len(data) if end is None else end
    while True:
        text = data[:end].decode("latin-1")
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text = rng.choice(TEXT_DAMAGES)(text, rng)
        damaged = text.encode("utf-8", "replace") + data[end:]
        if damaged != data:
            return damaged


def damage_json(data: bytes, rng: Random) -> bytes:
    """One or two values of a JSON document replaced, deleted or repeated; now and then its bytes are damaged."""
    if rng.random() < 0.15:
        return damage(data, rng)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(document))
        if not places:
            break
        holder, key = rng.choice(places)
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        elif rng.random() < 0.1 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(document)
    if rng.random() < 0.05:
        text = "[" * 100_000 + text
    if rng.random() < 0.05:
        text = text.replace("{", '{"format_version": 1, ', 1)
    return text.encode("utf-8", "surrogatepass")


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) of a document; long lists of numbers count with their first ten."""
    places: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(min(len(holder), 10))
        places += [(holder, key) for key in keys]
        todo += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return places


def _at(data: bytes, rng: Random) -> int:
    end = min(len(data), HEADER_BYTES) if rng.random() < HEADER_SHARE else len(data)
    return rng.randrange(max(end, 1))


def _flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return data
    at = _at(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, rng: Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + bytes([rng.choice((0, 255, 127, 128, rng.randrange(256)))]) + data[at + 1 :]


def _number(data: bytes, rng: Random) -> bytes:
    """An integer or float of some width in place of what was there, mostly where fields begin."""
    order = rng.choice("<>")
    if rng.random() < 0.7:
        value, width = rng.choice(INTEGERS), rng.choice((1, 2, 4, 8))
        new = (value % 256**width).to_bytes(width, "little" if order == "<" else "big")
    else:
        value = rng.choice((float("nan"), float("inf"), 0.0, -1.0, 1e30, 1e-30))
        new = struct.pack(order + rng.choice("fd"), value)
    at = _at(data, rng)
    at -= at % rng.choice((1, 2, 4))
    return data[:at] + new + data[at + len(new) :]


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_little(data: bytes, rng: Random) -> bytes:
    return data[: -rng.randrange(1, 9)]


def _grow(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((bytes(1), bytes(100), rng.randbytes(50), data))


def _drop(data: bytes, rng: Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def _repeat(data: bytes, rng: Random) -> bytes:
    at, length = _at(data, rng), rng.randrange(1, 64)
    return data[: at + length] + data[at:]


def _swap(data: bytes, rng: Random) -> bytes:
    a, b = sorted((_at(data, rng), _at(data, rng)))
    length = min(rng.randrange(1, 16), max(b - a, 1))
    return (
        data[:a]
        + data[b : b + length]
        + data[a + length : b]
        + data[a : a + length]
        + data[b + length :]
    )


BYTE_DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _flip, _byte, _number, _number, _number, _cut, _cut_little, _grow, _drop, _repeat, _swap,
)  # fmt: skip


def _other_number(text: str, rng: Random) -> str:
    return _replaced(text, r"-?\d[\d.e+-]*", rng.choice(NUMBERS), rng)


def _other_word(text: str, rng: Random) -> str:
    return _replaced(text, r"[A-Za-z_][\w./%-]*", rng.choice(WORDS), rng)


def _replaced(text: str, pattern: str, new: str, rng: Random) -> str:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return text
    match = rng.choice(matches)
    return text[: match.start()] + new + text[match.end() :]


def _drop_line(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return "".join(lines)


def _repeat_line(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "".join(lines)


def _swap_lines(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) > 1:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    return "".join(lines)


def _odd_bytes(text: str, rng: Random) -> str:
    return damage(text.encode("latin-1", "replace"), rng).decode("latin-1")


TEXT_DAMAGES: tuple[Callable[[str, Random], str], ...] = (
    _other_number, _other_number, _other_number, _other_word, _other_word, _drop_line, _repeat_line, _swap_lines,
    _odd_bytes,
)  # fmt: skip
