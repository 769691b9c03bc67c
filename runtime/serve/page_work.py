"""A page's verbs, one after the other in a thread of their own, and what becomes of them as events."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from runtime.errors import Sam2Error, SessionClosed
from runtime.serve.bits import pack, window
from runtime.serve.info import ObjectInfo
from runtime.serve.leases import LeaseExpired, TooManyRequests
from runtime.serve.page_events import PageEvents, numbers
from runtime.serve.page_verb import Call, Describe, PageVerb
from runtime.serve.planes import Box3
from runtime.serve.session import InteractiveSession

POLL_S = 0.1
"""Between two looks at what the background does; news wakes earlier."""
TELL_S = 0.4
"""Between two words about how far things have come."""
MOST_WAITING = 256
"""Verbs of one page; one that comes back gives the masks of up to 100 objects."""

log = logging.getLogger(__name__)


class PageWork:
    """Runs verbs in order; the prompted slice is answered at once, the rest collected as the background finds it.

    Its thread is there only while there are verbs to run, objects to follow or slices being encoded ahead.

    Args:
        session: the interactive session, whose deadline has to be 0 s.
        events: hear of what happens.
        hold: counts the bytes that verbs keep while they wait, in place of what was counted before; raises where that
            is too much.
    """

    def __init__(
        self,
        session: InteractiveSession,
        events: PageEvents,
        hold: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        self._session, self._events, self._hold = session, events, hold
        self.turn = threading.RLock()
        """Held while the session's selected object matters."""
        self._lock = threading.Lock()
        self._verbs: deque[PageVerb] = deque()
        self._running: PageVerb | None = None
        self._followed: dict[int, PageVerb] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._seq = self._begun = self._kept_bytes = 0
        self._is_cancelled = False
        self._is_encoding_ahead = False
        session.on_slices = lambda object_id, box: self._wake.set()

    @property
    def is_busy(self) -> bool:
        """Whether a verb, or what follows from one, is under way."""
        return bool(self._verbs or self._running or self._followed)

    def is_busy_with(self, object_id: int) -> bool:
        """Whether a verb on one object waits or runs, or it is followed."""
        with self._lock:
            verbs = [*self._verbs, *self._followed.values(), self._running]
        return any(verb is not None and verb.object_id == object_id for verb in verbs)

    def submit(self, object_id: int, call: Call, describe: Describe, num_bytes: int = 0) -> int:
        """Queue a verb on an object that is there, which keeps so many bytes until it has run. Returns its number.

        Raises TooManyRequests where too many wait, and as `hold` does.
        """
        with self._lock:
            if len(self._verbs) >= MOST_WAITING:
                raise TooManyRequests(f"{MOST_WAITING} prompts are waiting; try again later")
            self._hold(self._kept_bytes + num_bytes)
            self._kept_bytes += num_bytes
            self._seq += 1
            self._is_cancelled = False
            self._verbs.append(
                PageVerb(self._seq, object_id, call, describe, time.monotonic(), num_bytes)
            )
            verb = self._verbs[-1]
        try:
            self._start()
        except RuntimeError:  # whoever asks for it again would have it twice
            with self._lock, suppress(ValueError):
                self._verbs.remove(verb)
            self._let_go([verb])
            raise
        return verb.seq

    def _let_go(self, verbs: Iterable[PageVerb]) -> None:
        """Count no longer what verbs kept that wait no more."""
        with self._lock, suppress(LeaseExpired):
            self._kept_bytes -= sum(verb.num_bytes for verb in verbs)
            self._hold(self._kept_bytes)

    def cancel(self) -> bool:
        """End what runs and forget what waits. Returns whether there was anything."""
        with self._lock:
            was_busy, self._is_cancelled = self.is_busy, True
            waiting = [*self._verbs]
            self._verbs.clear()
        self._session.cancel()
        self._let_go(waiting)
        for verb in waiting:
            self._tell_done(verb, is_changed=False, is_cancelled=True)
        self._wake.set()
        return was_busy

    def forget(self, object_id: int | None = None) -> None:
        """Follow an object, or all, no longer, and forget verbs on it that wait: tell that they are over.

        To be called while the object is still there.
        """
        with self._lock:
            followed, waiting = [*self._followed.values()], [*self._verbs]
            over = [v for v in (*followed, *waiting) if object_id in (None, v.object_id)]
            self._verbs = deque(v for v in waiting if v not in over)
            for verb in over:
                self._followed.pop(verb.object_id, None)
        self._let_go(verb for verb in waiting if verb in over)
        for verb in over:
            self._tell_done(verb, is_changed=False, is_cancelled=True)

    def watch_encodings(self) -> None:
        """Tell how far encoding ahead has come until it is done."""
        self._is_encoding_ahead = True
        self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="page", daemon=True)
                thread.start()  # which may fail, and is tried again then
                self._thread = thread
        self._wake.set()

    def _work(self) -> None:
        told_s = 0.0
        try:
            while self._step():
                if time.monotonic() - told_s > TELL_S:
                    told_s = time.monotonic()
                    self._tell_progress()
        except Exception as error:  # the session was closed meanwhile, or what nobody thought of
            if not isinstance(error, Sam2Error):
                log.exception("the work of a page stopped")
            with self._lock:
                waiting, followed = [*self._verbs], [*self._followed.values()]
                self._verbs.clear()
                self._followed.clear()
                self._is_encoding_ahead, self._thread = False, None
            self._let_go(waiting)
            # One that is over already is told of again: the page waits for none that is not there any more.
            for seq in {verb.seq for verb in (*waiting, *followed)} | {self._begun}:
                self._events.send("failed", seq=seq, object=None, **error_words(error))

    def _step(self) -> bool:
        """Run one verb, or wait for news and hand it over. Returns whether there is more to do."""
        with self._lock:
            verb = self._running = self._verbs.popleft() if self._verbs else None
            if verb is None and not self._followed and not self._is_encoding_ahead:
                self._thread = None
                return False
        if verb is not None:
            try:
                with self.turn:
                    self._run(verb)
            finally:
                self._running = None
                self._let_go([verb])
            return True
        self._wake.wait(POLL_S)
        self._wake.clear()
        with self.turn:
            for followed in [*self._followed.values()]:
                self._collect(followed)
        return True

    def _run(self, verb: PageVerb) -> None:
        self._begun = verb.seq
        self._events.send("begun", seq=verb.seq, object=verb.object_id)
        earlier = self._followed.pop(verb.object_id, None)
        try:
            self._session.select_object(verb.object_id)
            box = verb.call(self._session)
        except SessionClosed:
            raise
        except Exception as error:  # whatever it is, the page hears of it and the next verb runs
            self._running = None  # before anybody hears that it is over
            self._tell_failed(verb, error)
            if earlier is not None:
                self._followed[verb.object_id] = earlier
            return
        if earlier is not None:
            self._tell_done(earlier, is_changed=True, is_cancelled=True)
        self._tell_mask(verb, box)
        if self._info(verb.object_id).is_running:
            self._followed[verb.object_id] = verb
            described = verb.describe(verb.object_id)
            self._events.send("taken", seq=verb.seq, object=verb.object_id, described=described)
        else:
            self._running = None
            self._tell_done(verb, is_changed=box is not None)

    def _collect(self, verb: PageVerb) -> None:
        """Hand over what the background has found for an object, and see whether it is done."""
        is_running = self._info(
            verb.object_id
        ).is_running  # before: what comes meanwhile is collected next time
        try:
            self._session.select_object(verb.object_id)
            self._tell_mask(verb, self._session.collect())
        except SessionClosed:
            raise
        except Exception as error:
            self._followed.pop(verb.object_id, None)
            self._tell_failed(verb, error)
            return
        if not is_running and self._followed.pop(verb.object_id, None) is not None:
            self._tell_done(verb, is_changed=True, is_cancelled=self._is_cancelled)

    def _info(self, object_id: int) -> ObjectInfo:
        for info in self._session.objects:
            if info.id == object_id:
                return info
        raise SessionClosed("the session was closed; make a new one")  # which has no objects

    def _tell_mask(self, verb: PageVerb, box: Box3 | None) -> None:
        if box is None:
            return
        axis = self._info(verb.object_id).axis
        start, stop = box[axis]
        confidence = self._session.confidence_of(verb.object_id)[start:stop]
        patch = self._session.mask_of(verb.object_id)[window(box)]
        self._events.send(
            "mask",
            seq=verb.seq,
            object=verb.object_id,
            box=box,
            bits=base64.b64encode(pack(patch)).decode(),
            axis=axis,
            confidence={"start": start, "values": numbers(confidence)},
            ms=_ms_since(verb.arrived_s),
        )

    def _tell_progress(self) -> None:
        for object_id, verb in [*self._followed.items()]:
            info = self._info(object_id)
            done, planned = info.done, info.planned
            self._events.send(
                "progress", seq=verb.seq, object=object_id, done=done, planned=planned
            )
        if self._is_encoding_ahead:
            progress = self._session.progress
            self._is_encoding_ahead = progress.encoded < progress.to_encode
            self._events.send("ahead", done=progress.encoded, planned=progress.to_encode)

    def _tell_done(self, verb: PageVerb, is_changed: bool, is_cancelled: bool = False) -> None:
        self._events.send(
            "done",
            seq=verb.seq,
            object=verb.object_id,
            changed=is_changed,
            cancelled=is_cancelled,
            ms=_ms_since(verb.arrived_s),
            described=verb.describe(verb.object_id),
        )

    def _tell_failed(self, verb: PageVerb, error: Exception) -> None:
        if not isinstance(error, Sam2Error):
            log.error("a verb of a page failed", exc_info=error)
        described = verb.describe(verb.object_id)
        words = error_words(error)
        self._events.send(
            "failed", seq=verb.seq, object=verb.object_id, described=described, **words
        )


def error_words(error: Exception) -> dict[str, str]:
    """An error as the page is told of it: the name of its class, and its message if it is meant for people."""
    if isinstance(error, Sam2Error):
        return {"error": type(error).__name__, "detail": str(error)}
    return {"error": "ServerError", "detail": "something failed; the server's log says what"}


def _ms_since(start_s: float) -> float:
    return round(1000 * (time.monotonic() - start_s), 1)
