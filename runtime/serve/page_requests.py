"""What the page's requests may say."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from runtime.errors import NoObject
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


def object_of(request: Request) -> int:
    """The number of the object in a path. Raises NoObject for what can be none."""
    text: str = request.path_params["object_id"]
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise NoObject(f"there is no object {text[:20]!r}; wanted a number")
    return int(text)
