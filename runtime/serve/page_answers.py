"""How the page's API answers: JSON that nobody keeps, and errors with statuses of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.errors import NoImage, NoObject, SessionClosed
from runtime.serve.page_work import error_words

Handler = Callable[[Request], Awaitable[Response]]
FRESH = {"Cache-Control": "no-store"}
# What the app does not know; everything else is left to it.
_STATUSES: dict[type[Exception], int] = {NoImage: 409, NoObject: 404, SessionClosed: 410}


def json_answer(content: dict[str, Any], status: int = 200) -> Response:
    """JSON for this request alone."""
    return JSONResponse(content, status, FRESH)


def answered(handler: Handler) -> Handler:
    """A handler that answers errors of the page's own too."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except tuple(_STATUSES) as error:
            status = next(s for kind, s in _STATUSES.items() if isinstance(error, kind))
            return json_answer(error_words(error), status)

    return answer
