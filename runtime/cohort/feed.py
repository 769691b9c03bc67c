"""Studies that are still being searched for while others are done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from queue import Empty, Full, Queue
from threading import Event, Thread

from runtime.cohort.ledger import Ledger
from runtime.cohort.study import Study

PATIENCE_S = 0.2  # between looks at whether anybody still wants a page


class Feed:
    """Pages of studies, found by a thread that is never more than two pages ahead of who takes them in.

    Args:
        pages: of studies; asking for the next may take long.
        ledger: that they wait in.
        settings_key, retries: as for `Ledger.meet`.
    """

    def __init__(
        self, pages: Iterable[Sequence[Study]], ledger: Ledger, settings_key: str, retries: bool
    ) -> None:
        self._ledger, self._key, self._retries = ledger, settings_key, retries
        self._queue: Queue[Sequence[Study] | None] = Queue(maxsize=1)
        self._closed = Event()
        self._error: Exception | None = None
        self.is_over = False
        self._thread = Thread(target=self._find, args=(pages,), name="search", daemon=True)
        self._thread.start()

    def take_in(self, timeout_s: float) -> int:
        """Let the next page's studies wait in the ledger, if it comes in time. Returns how many more wait then."""
        try:
            page = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        except Empty:
            return 0
        if page is None:
            self.is_over = True
            return 0
        return self._ledger.meet(page, self._key, self._retries)

    def check(self) -> None:
        """Raise what ended the search early, if anything did."""
        if self.is_over and self._error is not None:
            raise self._error

    def close(self) -> None:
        """Search no further."""
        self._closed.set()

    def _find(self, pages: Iterable[Sequence[Study]]) -> None:
        try:
            for page in pages:
                if not self._offered(page):
                    return
        except Exception as error:  # told to whoever takes pages in, by `check`
            self._error = error
        self._offered(None)

    def _offered(self, page: Sequence[Study] | None) -> bool:
        """Wait until somebody has room for it; False once nobody will."""
        while not self._closed.is_set():
            try:
                self._queue.put(page, timeout=PATIENCE_S)
            except Full:
                continue
            return True
        return False
