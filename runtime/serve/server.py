"""The running server: sockets, signals, and an end within a second."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from runtime.errors import InputError, Sam2Error
from runtime.files.atomic import remove_unfinished
from runtime.serve.connection import connection_class
from runtime.serve.guard import HEAD_BYTES
from runtime.serve.hosts import is_loopback
from runtime.serve.keys import HOW_TO_MAKE, VARIABLE
from runtime.serve.leases import Leases
from runtime.serve.limits import Limits

log = logging.getLogger("runtime.serve")

BACKLOG = 128
MARGIN_S = 0.3  # after what is being answered has been answered
SWEEP_S = 1.0  # between looks for sessions whose time is over


class CannotListen(Sam2Error):
    """An address and port that cannot be had."""


def listen(host: str, port: int, has_key: bool = False) -> socket.socket:
    """A socket that listens.

    Args:
        host: address or name to bind to.
        port: 0 takes a free one.
        has_key: whether clients have to show a key; without one only this machine may be let in.

    Raises InputError for an address that others reach without a key, CannotListen.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # a label of a name that is empty, or too long
        raise CannotListen(f"no address {host} here ({error}); choose another --host") from error
    try:
        if not has_key and not is_loopback(str(address[0])):
            raise InputError(
                f"found --host {host}, which others reach, and no key; wanted --key-file F, or the key in {VARIABLE}; "
                f"{HOW_TO_MAKE}"
            )
        if os.name == "posix":  # elsewhere it would let others take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"port {port} of {host} cannot be had ({error.strerror}); another server may run there: stop it, or "
            "choose another --port"
        ) from error
    except InputError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn's, which looks after leases, and ends soon when it is told to.

    Args:
        app: that answers.
        leases: whose work ends first.
        limits: of connections and times.
        started: called once it listens.
        stopping: called when it begins to end.
    """

    def __init__(
        self,
        app: ASGIApp,
        leases: Leases,
        limits: Limits,
        started: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=connection_class(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=limits.close_s,  # type: ignore[arg-type]
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self._leases, self._limits = leases, limits
        self._started, self._stopping = started, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def main_loop(self) -> None:
        sweeper = asyncio.create_task(self._sweep())
        try:
            await super().main_loop()
        finally:
            sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._leases.expire()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What runs returns what it has, is answered, and all sessions end."""
        self._stopping()
        self._leases.cancel_all()
        await super().shutdown(sockets)
        self._leases.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, and a clock begins to run; a second one ends it at once."""
        if self.should_exit:
            _leave(128 + sig)
        super().handle_exit(sig, frame)
        clock = threading.Timer(self._limits.close_s + MARGIN_S, _leave, (128 + sig,))
        clock.daemon = (
            True  # a step of a large network cannot be interrupted, and nothing is lost with it
        )
        with suppress(RuntimeError):  # where no thread is to be had the end is waited for
            clock.start()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record tells of more than a request that ended with the server."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError | KeyboardInterrupt)


def _leave(code: int) -> None:
    """End now, without the files that are being received or written."""
    remove_unfinished()
    os._exit(code)
