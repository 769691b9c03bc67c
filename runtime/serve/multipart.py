"""Forms of files (multipart/form-data), their parts collected as they arrive."""

from __future__ import annotations

from collections.abc import Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from runtime.errors import InputError

MAX_PARTS = 8


class Form:
    """Collects the parts of a form.

    Args:
        content_type: the request's.
        limits: bytes that the part of each name may have; others are passed over.

    Raises InputError for a content type that is no form's.
    """

    def __init__(self, content_type: str, limits: Mapping[str, int]) -> None:
        self.parts: dict[str, bytearray] = {}
        self._limits, self._num_parts = limits, 0
        self._header, self._value = b"", b""
        self._name = ""
        self._into: bytearray | None = None
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != b"multipart/form-data" or not boundary:
            raise InputError(
                f"found a body of {content_type[:60]!r}; wanted multipart/form-data with a boundary"
            )
        callbacks = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._end,
        }
        self._is_whole = False
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise InputError(f"found a form that cannot be read ({error})") from error

    def write(self, piece: bytes) -> None:
        """Take more of the body. Raises InputError."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise InputError(f"found a form that cannot be read ({error})") from error

    def finish(self) -> dict[str, bytearray]:
        """The parts by name. Raises InputError for a form without its end."""
        if not self._is_whole:
            raise InputError("found a form that is cut short")
        return self.parts

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise InputError(f"found a form of more than {MAX_PARTS} parts")
        self._name, self._into = "", None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("latin-1")
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        if self._name in self.parts:
            raise InputError(f"found two parts {self._name!r} in a form")
        if self._name in self._limits:
            self._into = self.parts[self._name] = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._into is None:
            return
        self._into += memoryview(data)[start:end]
        if len(self._into) > self._limits[self._name]:
            raise InputError(
                f"found a part {self._name!r} of more than {self._limits[self._name]} bytes"
            )

    def _end(self) -> None:
        self._is_whole = True


async def read_form(request: Request, limits: Mapping[str, int]) -> dict[str, bytearray]:
    """The parts of a request's form, see `Form`; all that are named in `limits` are there. Raises InputError."""
    form = Form(request.headers.get("content-type", ""), limits)
    async for piece in request.stream():
        form.write(piece)
    parts = form.finish()
    if missing := [name for name in limits if name not in parts]:
        raise InputError(f"found a form without {' and '.join(missing)}")
    return parts
