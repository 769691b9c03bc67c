"""Units of length, as headers of volumes name them."""

from __future__ import annotations

import re

UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "nm": 1e-6}
"""Millimetres in a unit of length."""

# Words are free in NRRD, and MetaIO's are um, mm, cm and ?; these are what writers put there, one of them or many. The
# first three say that nobody knows.
_WORDS = {
    **dict.fromkeys(("", "?", "???", "mm", "millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("m", "meter", "metre"), "m"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(
        ("um", "\u00b5m", "\u03bcm", "\udcb5m", "micron", "micrometer", "micrometre"), "um"
    ),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), "nm"),
}


def unit_of(word: str) -> str | None:
    """The key of `UNITS_MM` that a word means, one or many, in letters of any size; None for what is no length."""
    word = word.lower()
    return _WORDS.get(word[:-1] if re.fullmatch(r"\w{3,}s", word) else word)
