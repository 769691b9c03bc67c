"""What errors mean over HTTP: a status, and JSON that says what was found, what was wanted and how to mend it."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from runtime.errors import InputError, OutOfMemory, Sam2Error, SessionBusy, SessionClosed
from runtime.process.shortage import DISK_FULL, causes, shortage_behind, shortage_words
from runtime.serve.leases import AtCapacity, LeaseExpired, TooManyRequests
from runtime.serve.nnia import TooLarge

log = logging.getLogger("runtime.serve")


class StorageFull(Sam2Error):
    """A disk of the server's, or a user's share of it, that takes no more."""


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
    StorageFull: 507,
    InputError: 400,
    ClientDisconnect: 400,  # which nobody is there to read
}
# Nobody knows when it will help to ask again: a network that had no time for 45 s, or a session that somebody holds, is
# not free in a second. One of a session's own requests is, as a rule: a prompted slice takes less.
RETRY_AFTER_S: dict[type[Exception], int] = {AtCapacity: 10, SessionBusy: 10, TooManyRequests: 1}


def response_to(error: Exception) -> JSONResponse:
    """What a client is told of an error; what nobody has foreseen is logged, and said in a word."""
    if isinstance(error, Refused):
        return _response(error.status, error, error.headers)
    if (shortage := shortage_behind(error)) and not isinstance(error, OutOfMemory):
        error = OutOfMemory(shortage_words(shortage))
    elif full := _full_disk_behind(error):
        log.error("%s", full)
        error = StorageFull(_full_disk_words(error, full))
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            retry_s = RETRY_AFTER_S.get(kind)
            return _response(status, error, {"Retry-After": str(retry_s)} if retry_s else {})
    if isinstance(error, Sam2Error):
        log.error("%s: %s", type(error).__name__, error)
        return _response(500, error, {})
    log.error("a fault of the server's", exc_info=error)
    return _response(500, Sam2Error("a fault of the server's; its log has more"), {})


def _full_disk_behind(error: Exception) -> OSError | None:
    """The full disk that an error was raised from, or the error itself if it is one."""
    of_system = (cause for cause in causes(error) if isinstance(cause, OSError))
    return next((cause for cause in of_system if cause.errno in DISK_FULL), None)


def _full_disk_words(error: Exception, full: OSError) -> str:
    """What a full disk is told of as: the words of who has met it, if they are meant for people."""
    if isinstance(error, Sam2Error):
        return str(error)
    return f"a disk of the server's has no room ({full.strerror}); make some, then send it again"


def _response(status: int, error: Exception, headers: dict[str, str]) -> JSONResponse:
    content = {"error": type(error).__name__, "detail": str(error)}
    return JSONResponse(content, status, headers)
