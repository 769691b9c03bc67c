"""What errors mean over HTTP: a status, and JSON that says what was found, what was wanted and how to mend it."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from runtime.errors import InputError, OutOfMemory, Sam2Error, SessionBusy, SessionClosed
from runtime.process.shortage import shortage_behind, shortage_words
from runtime.serve.leases import AtCapacity, LeaseExpired, TooManyRequests
from runtime.serve.nnia import TooLarge

log = logging.getLogger("runtime.serve")

RETRY_AFTER_S = 10


class Refused(Sam2Error):
    """A request that is refused for what it is, not for what it asks.

    Args:
        status: of HTTP.
        detail: what was found, what was wanted, how to mend it.
        headers: to send along.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers or {}


# First match first. nnInteractive's clients know 410 and 503, and take each for nothing else than this.
STATUSES: dict[type[Exception], int] = {
    LeaseExpired: 410,
    SessionClosed: 410,
    AtCapacity: 503,
    TooManyRequests: 429,
    SessionBusy: 429,
    TooLarge: 413,
    OutOfMemory: 507,
    InputError: 400,
    ClientDisconnect: 400,  # which nobody is there to read
}


def response_to(error: Exception) -> JSONResponse:
    """What a client is told of an error; what nobody has foreseen is logged, and said in a word."""
    if isinstance(error, Refused):
        return _response(error.status, error, error.headers)
    if (shortage := shortage_behind(error)) and not isinstance(error, OutOfMemory):
        return _response(STATUSES[OutOfMemory], OutOfMemory(shortage_words(shortage)), {})
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            is_full = status == STATUSES[AtCapacity]
            return _response(status, error, {"Retry-After": str(RETRY_AFTER_S)} if is_full else {})
    if isinstance(error, Sam2Error):
        log.error("%s: %s", type(error).__name__, error)
        return _response(500, error, {})
    log.error("a fault of the server's", exc_info=error)
    return _response(500, Sam2Error("a fault of the server's; its log has more"), {})


def _response(status: int, error: Exception, headers: dict[str, str]) -> JSONResponse:
    content = {"error": type(error).__name__, "detail": str(error)}
    return JSONResponse(content, status, headers)
