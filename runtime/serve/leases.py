"""Who holds which session, until when, and in how much memory."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from runtime.devices.machine import trim_memory
from runtime.errors import OutOfMemory, Sam2Error
from runtime.serve.lease import Lease
from runtime.serve.limits import Limits
from runtime.serve.session import InteractiveSession

log = logging.getLogger("runtime.serve")

TOKEN_BYTES = 24  # of randomness; 32 letters that are safe in a URL
SILENT_FACES = {"itksnap"}
"""Whose clients send no heartbeats, so that only their user's actions tell of them."""
LONG_IDLE = 6
"""A silent face's session may idle so many times longer, as long as nobody else wants its place."""

AWAY_S = 20.0
"""In which a page that is loaded again is back, and a second one of its session has given a sign of life (every 15 s);
one that has left for longer is closed, and gives its place up."""


class LeaseExpired(Sam2Error):
    """A session that is over, or never was."""


class AtCapacity(Sam2Error):
    """All sessions are taken."""


class TooManyRequests(Sam2Error):
    """More requests of one session at once than anybody needs."""


class Leases:
    """All leases; any thread may call it.

    Args:
        make_session: a new session.
        limits: of counts, bytes and clocks.
        clock: in seconds.
        give_back: called in a thread of the leases' own when nobody has worked for `Limits.rest_s` and a session has
            ended since the last call.
        on_held: called when memory has been counted, of which others may have less from then on; it has to be quick.
    """

    def __init__(
        self,
        make_session: Callable[[], InteractiveSession],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        give_back: Callable[[], None] = lambda: None,
        on_held: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_session, self._limits, self._clock = make_session, limits, clock
        self._on_held = on_held
        self._give_back, self._has_ended, self._last_work = give_back, False, clock()
        self._leases: dict[bytes, Lease] = {}  # by the token's hash: its bytes are never compared
        self._lock = threading.RLock()
        self._granted = 0
        self._closer = ThreadPoolExecutor(1, "close sessions")
        self._closer.submit(trim_memory)  # has a thread by then, whatever else may have none later
        self.idle_timeout_s = limits.idle_s

    def __len__(self) -> int:
        with self._lock:
            return len(self._leases)

    def grant(self, face: str) -> Lease:
        """A new lease. Raises AtCapacity."""
        with self._lock:
            self.expire()
            if len(self._leases) >= self._limits.max_sessions:
                self._make_room()
            now = self._clock()
            self._granted += 1
            token = secrets.token_urlsafe(TOKEN_BYTES)
            lease = Lease(token, self._make_session(), face, self._granted, now, now)
            self._leases[_hash(token)] = lease
        log.info("session %d opened by %s", lease.number, face)
        return lease

    def of(self, token: str | None, is_active: bool = True, face: str | None = None) -> Lease:
        """The lease of a token, whose client is alive and, if so said, whose user has done something.

        Raises LeaseExpired, also for a lease of another face, whose session is driven in other ways.
        """
        with self._lock:
            lease = self.peek(token)
            if face not in (None, lease.face):
                raise LeaseExpired(
                    "this session was opened by another kind of client; connect again"
                )
            lease.last_seen, lease.left = self._clock(), None
            if is_active:
                lease.last_active = lease.last_seen
            return lease

    def peek(self, token: str | None) -> Lease:
        """The lease of a token, whose clocks go on. Raises LeaseExpired."""
        with self._lock:
            lease = self._leases.get(_hash(token or ""))
            if lease is not None and not self._is_over(lease):
                return lease
        raise LeaseExpired("this session is over or unknown to this server; connect again")

    def leave(self, token: str | None) -> None:
        """Note that a client goes, which may come back at once: until it has been away its place is kept."""
        with self._lock:
            if lease := self._leases.get(_hash(token or "")):
                lease.left = self._clock()

    def remaining_s(self, token: str) -> float:
        """Seconds that a session may still idle; 0 for one that has ended."""
        try:
            idle_s = self._clock() - self.peek(token).last_active
        except LeaseExpired:
            return 0.0
        return max(0.0, self._limits.idle_s - idle_s)

    @contextmanager
    def working(self, lease: Lease) -> Iterator[None]:
        """While a request runs its session does not idle, and its end is an action too. Raises TooManyRequests."""
        with self._lock:
            if lease.pending >= self._limits.max_pending:
                raise TooManyRequests(
                    f"{lease.pending} requests of this session are waiting; send the next after an answer"
                )
            lease.pending += 1
        try:
            yield
        finally:
            with self._lock:
                lease.pending -= 1
                lease.last_active = lease.last_seen = self._last_work = self._clock()

    def hold(self, lease: Lease, what: str, num_bytes: int) -> None:
        """Count memory that a session is about to take, in place of what it had counted under that name.

        The sessions whose users have been away longest end where there is no room. Raises OutOfMemory where that does
        not help, LeaseExpired for a lease that has ended meanwhile.
        """
        most = self._limits.max_volume_bytes
        with self._lock:
            self.peek(lease.token)
            others = sum(size for name, size in lease.held_bytes.items() if name != what)
            if others + num_bytes > most:
                raise OutOfMemory(
                    f"this takes {(others + num_bytes) / 2**20:.0f} MiB and the server holds {most / 2**20:.0f} at the "
                    "most; crop the image, or start the server with a larger --max-memory"
                )
            before = lease.held_bytes.pop(what, 0)
            while self.held_bytes + num_bytes > most:
                idle = [held for held in self._by_age() if held is not lease and not held.pending]
                if not idle:
                    lease.held_bytes[what] = before
                    raise OutOfMemory(
                        f"this takes {num_bytes / 2**20:.0f} MiB, and other sessions that work need the rest of the "
                        f"server's {most / 2**20:.0f}; try again later"
                    )
                self._end(idle[0], "its memory was needed")
            lease.held_bytes[what] = num_bytes
        self._on_held()

    @contextmanager
    def holding(self, lease: Lease, num_bytes: int) -> Iterator[None]:
        """Count memory that a request takes while it runs. Raises as `hold` does."""
        what = f"request {secrets.token_hex(8)}"
        self.hold(lease, what, num_bytes)
        try:
            yield
        finally:
            self.let_go(lease, what)

    @contextmanager
    def replacing(self, lease: Lease, what: str) -> Iterator[Callable[[int], None]]:
        """Gives what counts memory of something that is being made to take another's place, in so far as it is more.

        Both are there until then, but nobody could replace what takes half of the memory otherwise.
        """
        before = lease.held_bytes.get(what, 0)
        try:
            yield lambda num_bytes: self.hold(lease, what, max(before, num_bytes))
        finally:
            self.hold(lease, what, before)

    def let_go(self, lease: Lease, what: str) -> None:
        """Count memory no longer; that of a lease that has ended is not counted anyway."""
        with self._lock:
            lease.held_bytes.pop(what, None)

    @property
    def held_bytes(self) -> int:
        """Of all sessions."""
        with self._lock:
            return sum(sum(lease.held_bytes.values()) for lease in self._leases.values())

    def release(self, token: str | None) -> None:
        """End a lease; one that is over already is no error."""
        with self._lock:
            if lease := self._leases.get(_hash(token or "")):
                self._end(lease, "released")

    def expire(self) -> None:
        """End the leases whose time is over, and have memory given back where nobody works."""
        with self._lock:
            for lease in [held for held in self._leases.values() if self._is_over(held)]:
                self._end(lease, "its time was over")
            works = any(lease.pending for lease in self._leases.values())
            rests = not works and self._clock() - self._last_work > self._limits.rest_s
            if self._has_ended and rests:
                self._has_ended = False
                self._closer.submit(self._give_back)

    def cancel_all(self) -> None:
        """Have everything that runs return what it has."""
        with self._lock:
            sessions = [lease.session for lease in self._leases.values()]
        for session in sessions:
            session.cancel()

    def close(self) -> None:
        """End all leases."""
        with self._lock:
            for lease in list(self._leases.values()):
                self._end(lease, "the server closes")
        self._closer.shutdown(wait=False)

    def _make_room(self) -> None:
        """End a session whose client has left, or the silent one that has idled longest.

        Raises AtCapacity if none has for long enough.
        """
        now = self._clock()
        for lease in self._by_age():
            if lease.left is not None and not lease.pending and now - lease.left > AWAY_S:
                return self._end(lease, "its client had left and its place was needed")
        for lease in self._by_age():
            is_idle = not lease.pending and now - lease.last_active > self._limits.idle_s
            if lease.face in SILENT_FACES and is_idle:
                return self._end(lease, "its place was needed")
        raise AtCapacity(
            f"all {self._limits.max_sessions} sessions are taken; close one, wait until one has idled for "
            f"{self._limits.idle_s:.0f} s, or start the server with a larger --max-sessions"
        )

    def _by_age(self) -> list[Lease]:
        return sorted(self._leases.values(), key=lambda lease: lease.last_active)

    def _is_over(self, lease: Lease) -> bool:
        if lease.pending:
            return False
        now = self._clock()
        if lease.face in SILENT_FACES:
            return now - lease.last_active > LONG_IDLE * self._limits.idle_s
        is_dead = now - lease.last_seen > self._limits.silent_s
        return is_dead or now - lease.last_active > self._limits.idle_s

    def _end(self, lease: Lease, why: str) -> None:
        del self._leases[_hash(lease.token)]
        lease.held_bytes.clear()
        lease.session.cancel()
        self._has_ended = True
        self._closer.submit(_close, lease, why)
        self._closer.submit(trim_memory)  # once nothing holds the session any more


def _close(lease: Lease, why: str) -> None:
    try:
        lease.on_end()
        lease.session.close()
    except Exception:  # a session that cannot be closed must not keep others from it
        log.exception("session %d could not be closed", lease.number)
    log.info("session %d closed: %s", lease.number, why)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
