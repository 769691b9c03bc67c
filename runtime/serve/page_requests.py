"""What the page's requests may say."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from runtime.errors import InputError
from runtime.files.strict_json import Boolean, Fault, Integer, Numbers, Object, Rule, Text, parse

MAX_JSON_BYTES = 64 * 1024
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


async def read_json(request: Request, rule: Object) -> dict[str, Any]:
    """The body of a request, held to a rule; an empty one is an empty object. Raises InputError."""
    body = await read_bytes(request, MAX_JSON_BYTES)
    return parse_object(body or b"{}", rule)


def read_meta(request: Request, rule: Object) -> dict[str, Any]:
    """What the header X-Meta says, held to a rule. Raises InputError."""
    return parse_object(request.headers.get("x-meta", ""), rule)


def parse_object(text: bytes | str, rule: Object) -> dict[str, Any]:
    """JSON held to a rule. Raises InputError."""
    try:
        content: dict[str, Any] = parse(text)
        rule.check(content, "")
    except Fault as fault:
        raise InputError(f"the request is not what was wanted: {fault}") from fault
    return content


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body of a request. Raises InputError for more than `max_bytes`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise InputError(f"found a body of more than {max_bytes} bytes; wanted less")
    return bytes(body)
