"""What a page is told while things go on: server-sent events, made in any thread and read by one stream."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

PING_S = 10.0
"""Between two signs of life on a stream that has nothing to tell."""
MAX_PENDING_BYTES = 64 << 20
"""A page that reads slower than this much is told to ask anew."""
PING = b": still here\n\n"


class _Reader:
    """One stream: what it has yet to be sent, and how to wake it."""

    def __init__(self) -> None:
        self.loop, self.news = asyncio.get_running_loop(), asyncio.Event()
        self.pending: deque[bytes] = deque()
        self.num_bytes = 0
        self.is_over = False

    def put(self, event: bytes) -> None:
        self.pending.append(event)
        self.num_bytes += len(event)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.news.set)


class PageEvents:
    """Events on their way to a page.

    They reach whoever reads now. Nothing is kept for later: a page that comes back asks for the state. A new reader
    ends the one before.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._reader: _Reader | None = None
        self._number = 0

    def send(self, name: str, **data: Any) -> None:
        """Tell the reader, if there is one; from any thread."""
        with self._lock:
            reader = self._reader
            if reader is None:
                return
            event = self._event(name, data)
            if reader.num_bytes + len(event) > MAX_PENDING_BYTES:
                self._end(reader, "behind")
            else:
                reader.put(event)

    def end(self, reason: str) -> None:
        """Send the last event of whoever reads: "expired", "closing", "replaced" or "behind"."""
        with self._lock:
            if self._reader is not None:
                self._end(self._reader, reason)

    async def read(self, hello: dict[str, Any]) -> AsyncIterator[bytes | None]:
        """Events as bytes, "hello" first, and None where nothing has happened for `PING_S`, until the end."""
        reader = _Reader()
        reader.put(self._event("hello", hello))
        with self._lock:
            if self._reader is not None:
                self._end(self._reader, "replaced")
            self._reader = reader
        try:
            while True:
                while reader.pending:
                    event = reader.pending.popleft()
                    reader.num_bytes -= len(event)
                    yield event
                if reader.is_over:
                    return
                reader.news.clear()
                if not reader.pending and not await _is_woken(reader.news):
                    yield None
        finally:
            with self._lock:
                if self._reader is reader:
                    self._reader = None

    def _end(self, reader: _Reader, reason: str) -> None:
        reader.is_over = True
        reader.put(self._event("over", {"reason": reason}))
        self._reader = None

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        self._number += 1
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        return f"id: {self._number}\nevent: {name}\ndata: {text}\n\n".encode()


async def _is_woken(news: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(news.wait(), PING_S)
    except TimeoutError:
        return False
    return True


def numbers(values: NDArray[np.floating[Any]]) -> list[float | None]:
    """Values as JSON has them, with four decimals, and null for what is no number."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]
