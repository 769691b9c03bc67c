"""What the page's requests may say."""

from __future__ import annotations

import re
from typing import Any

from runtime.files.strict_json import Boolean, Fault, Integer, Numbers, Object, Rule, Text

_FARTHEST = 1 << 20  # no volume is as long
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_SPAN = Numbers(Integer(-_FARTHEST, _FARTHEST), 2, 2)
_BOX = Numbers(_SPAN, 3, 3)


class _Colour(Rule):
    """A colour as "#rrggbb"."""

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or not _COLOUR.fullmatch(value):
            raise Fault(f"{where} is not a colour such as #3da9fc")


NOTHING = Object()
HEARTBEAT = Object(optional={"active": Boolean()})
LOOK = Object(optional={"name": Text(), "colour": _Colour()})
POINT = Object({"kji": Numbers(Integer(-_FARTHEST, _FARTHEST), 3, 3), "positive": Boolean()})
BOX = Object({"box": _BOX, "positive": Boolean()})
