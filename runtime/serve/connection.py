"""One connection of a client: uvicorn's, with an end to waiting.

uvicorn waits for the rest of a request's head for ever, and for a client that does not read its answer. Here a head, a
body that nobody wants any more, and room for an answer each have a deadline, and connections a number: where there are
too many, the one that has waited longest for a request goes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.serve.limits import Limits

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 10\r\nconnection: close\r\n"
    b'content-length: 35\r\n\r\n{"detail":"too many connections"}\r\n'
)


class Connection(H11Protocol):
    """See above; `limits` is set by `connection_class`."""

    limits = Limits()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._waits_for = ""
        self._writing: asyncio.TimerHandle | None = None
        self.since = time.monotonic()
        """When it began to wait for a request."""

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is being answered here."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections and not self._make_room():
            transport.write(BUSY)
            transport.close()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect("", 0)
        self._expect_room(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun; there is no room for another
            self.transport.abort()
        if self.cycle is not None:  # whoever is about to answer would find that this has been done
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def pause_writing(self) -> None:
        self._expect_room(True)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._expect_room(False)
        super().resume_writing()

    def _watch(self) -> None:
        """Set the deadline of what is waited for now; each begins once, however many bytes come meanwhile."""
        if self.transport.is_closing():
            return self._expect("", 0)
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.SEND_BODY and is_answered:
            length = dict(self.headers).get(b"content-length", b"0")
            most = self.limits.max_upload_bytes
            size = min(int(length), most) if len(length) < 19 and length.isdigit() else most
            return self._expect("the rest of a body", self.limits.body_deadline_s(size))
        is_first = self.cycle is None
        if self.conn.their_state is h11.IDLE and (is_first or self.conn.trailing_data[0]):
            return self._expect("a head", self.limits.header_s)
        self._expect("", 0)

    def _expect(self, what: str, seconds: float) -> None:
        if what == self._waits_for:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._waits_for = what
        if what:
            self._deadline = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _expect_room(self, is_expected: bool) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if is_expected:
            self._writing = self.loop.call_later(self.limits.write_s, self._too_late)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest; returns whether one waits."""
        waiting = [peer for peer in self.connections if peer is not self and peer.is_waiting]  # type: ignore[union-attr]
        if not waiting:
            return False
        min(waiting, key=lambda peer: peer.since).transport.abort()  # type: ignore[union-attr]
        return True


def connection_class(limits: Limits) -> type[Connection]:
    """The class of connections with some limits: uvicorn makes them itself."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
