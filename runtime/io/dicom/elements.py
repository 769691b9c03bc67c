"""Values of data elements, read strictly: what is no number is refused and never made one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

from runtime.errors import Sam2Error, SeriesError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# How numbers may be said to be written: as what they are, as nothing (implicit) or as unknown.
_DECIMAL, _SHORT = ("DS", "IS", "UN", None), ("US", "UN", None)
_UNDEFINED = 0xFFFFFFFF
# How an item of a sequence begins, in both orders of bytes.
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
# Decimal String and Integer String, PS3.5 table 6.2-1.
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *\Z", re.ASCII)


@contextmanager
def refusing(error: type[Sam2Error], what: str) -> Iterator[None]:
    """Raise `error` in place of whatever pydicom raises within: damaged elements make it raise anything."""
    try:
        yield
    except (SeriesError, MemoryError):
        raise
    except Exception as raised:
        raise error(f"{what} ({raised})") from raised


def text(dataset: Dataset, tag: int) -> str:
    """An element's text without its padding, "" where there is none; bytes that are no ASCII become "\ufffd"."""
    value = getattr(dataset.get_item(tag), "value", None) if tag in dataset else None
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").rstrip(" \0").lstrip(" ")
    return "" if value is None else str(value)


def numbers(dataset: Dataset, tag: int, where: object) -> tuple[float, ...]:
    """The finite numbers of a decimal or integer string, () where there are none. Raises SeriesError."""
    value = text(dataset, tag)
    parts = value.split("\\") if value else []
    is_right = _vr(dataset, tag) in _DECIMAL and all(
        _NUMBER.match(part) and isfinite(float(part)) for part in parts
    )
    if parts and not is_right:
        raise SeriesError(f"{where}: found {value[:80]!r} in ({shown(tag)}); wanted numbers")
    return tuple(float(part) for part in parts)


def whole(dataset: Dataset, tag: int, where: object) -> int:
    """The value of an unsigned short. Raises SeriesError where it is missing or none."""
    raw = dataset.get_item(tag) if tag in dataset else None
    value = getattr(raw, "value", None)
    if not isinstance(value, bytes) or len(value) != 2 or _vr(dataset, tag) not in _SHORT:
        raise SeriesError(f"{where}: found no number of two bytes in ({shown(tag)}); it is damaged")
    return int.from_bytes(value, "little" if getattr(raw, "is_little_endian", True) else "big")


def items(dataset: Dataset, tag: int, most: int = 1000) -> Sequence[Dataset]:
    """The items of a sequence, [] where there is none.

    Raises ValueError where it holds more than `most` items, nested ones included, and whatever pydicom raises where
    it is damaged.
    """
    raw = getattr(dataset.get_item(tag), "value", None) if tag in dataset else None
    if isinstance(raw, bytes) and max(map(raw.count, _ITEMS)) > most:
        raise ValueError(f"({shown(tag)}) holds more than {most} items")
    with warnings.catch_warnings(action="ignore"):
        value: Any = dataset[tag].value if tag in dataset else ()
    datasets = [] if isinstance(value, bytes | str) or value is None else list(value)
    for dataset in datasets:
        check_whole(dataset)
    return datasets


def check_whole(dataset: Dataset) -> None:
    """Raise ValueError where what holds a data set ended within an element, which pydicom passes over."""
    for element in dataset.elements():
        value, length = element.value, getattr(element, "length", _UNDEFINED)
        if isinstance(value, bytes) and length not in (_UNDEFINED, len(value)):
            raise ValueError(f"its element ({shown(element.tag)}) is cut short")


def shown(tag: int) -> str:
    """A tag as this project's messages write it."""
    return f"{tag >> 16:04x}|{tag & 0xFFFF:04x}"


def _vr(dataset: Dataset, tag: int) -> str | None:
    return getattr(dataset.get_item(tag), "VR", None) if tag in dataset else None
