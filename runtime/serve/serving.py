"""What the faces share: sessions, limits, and threads in which sessions work while the event loop answers others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from runtime.errors import InputError
from runtime.files.strict_json import Fault, Object, parse
from runtime.serve.lease import Lease
from runtime.serve.leases import Leases
from runtime.serve.limits import Limits

T = TypeVar("T")
MAX_JSON_BYTES = 64 * 1024


Act = Callable[["Serving", Request, Lease], Awaitable[Response]]
"""Answers a request of somebody who holds a session."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Leases, limits, and the threads that calls of sessions wait in."""

    leases: Leases
    limits: Limits
    pool: ThreadPoolExecutor

    async def act(self, face: str, token: str | None, do: Act, request: Request) -> Response:
        """What a face's user does: the lease is asked for before the body is.

        Raises LeaseExpired, TooManyRequests.
        """
        lease = self.leases.of(token, face=face)
        with self.leases.working(lease):
            return await do(self, request, lease)

    async def call(self, request: Request, lease: Lease, work: Callable[[], T]) -> T:
        """Do a session's work beside the event loop.

        A client that goes away meanwhile has the session's work end soon: nobody waits for the answer, others may for
        the network. What was found by then is kept.
        """
        future = asyncio.get_running_loop().run_in_executor(self.pool, work)
        gone = asyncio.ensure_future(_is_gone(request))
        try:
            either: list[asyncio.Future[Any]] = [future, gone]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not future.done() and lease.pending == 1:
                lease.session.cancel()
            return await future
        finally:
            gone.cancel()


async def _is_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Body:
    """A request's body, of which the first bytes are looked at before the rest is waited for."""

    def __init__(self, request: Request) -> None:
        self._stream: AsyncIterator[bytes] = aiter(request.stream())
        self._content = bytearray()
        self._length = int(request.headers.get("content-length", 0))  # the guard has seen it

    async def first(self, count: int) -> bytes:
        """So many bytes, or all there are."""
        while len(self._content) < count:
            piece = await anext(self._stream, None)
            if piece is None:
                break
            self._content += piece
        return bytes(self._content[:count])

    async def whole(self) -> bytearray:
        """All of it, in memory that is taken once where the length is known."""
        filled = len(self._content)
        self._content.extend(bytes(max(0, self._length - filled)))
        async for piece in self._stream:
            self._content[filled : filled + len(piece)] = piece
            filled += len(piece)
        del self._content[filled:]
        return self._content


async def read_json(request: Request, rule: Object) -> dict[str, Any]:
    """A body of JSON that a rule allows; an empty one is an empty object. Raises InputError."""
    return check_json(await read_bytes(request, MAX_JSON_BYTES) or b"{}", rule)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body of a request. Raises InputError for more than `max_bytes`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise InputError(f"found a body of more than {max_bytes} bytes; wanted less")
    return bytes(body)


def check_json(text: bytes | str, rule: Object) -> dict[str, Any]:
    """JSON that a rule allows; names whose value is null are as good as not there. Raises InputError."""
    try:
        content = parse(text)
        if type(content) is dict:
            content = {name: value for name, value in content.items() if value is not None}
        rule.check(content, "")
    except Fault as fault:
        raise InputError(f"found JSON that does not fit: {fault}") from fault
    checked: dict[str, Any] = content
    return checked


def to_json(content: Any) -> str:
    """In one line, without NaN."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
