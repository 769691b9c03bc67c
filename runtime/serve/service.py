"""A model behind all faces of the server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from runtime.cohort.review import Review
from runtime.devices.machine import trim_memory
from runtime.errors import SessionClosed
from runtime.io.dicom.seg import SegmentationOptions
from runtime.io.volumes.volume import Volume
from runtime.model import Model
from runtime.serve.app import Door, application
from runtime.serve.leases import Leases
from runtime.serve.limits import Limits
from runtime.serve.page_api import Page
from runtime.serve.server import Server
from runtime.serve.serving import Serving
from runtime.serve.session import InteractiveSession
from runtime.serve.undo_memory import UndoMemory
from runtime.serve.worker import Urgency, Worker
from runtime.steps.encodings import Encodings


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows.

    Attributes:
        model: its name.
        caution: about it, in one line; None where none is called for.
        opened: a volume that every page begins with.
        review: of a cohort whose masks are looked at.
        reviewer: who does, as decisions say.
        segmentation: how masks are written as DICOM.
    """

    model: str = ""
    caution: str | None = None
    opened: Volume | None = None
    review: Review | None = None
    reviewer: str = ""
    segmentation: SegmentationOptions | None = None


class Service:
    """Sessions of one model, which share its encodings and the one thread that runs it, and the application for them.

    Args:
        model: that segments.
        limits: of everything.
        door: who is let in.
        licence: of the model's weights, which viewers show.
        max_encoding_bytes: of encoded slices; None is a third of the machine's memory.
        shown: what the page says of the model, and begins with.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        door: Door,
        licence: str,
        max_encoding_bytes: int | None = None,
        shown: Shown | None = None,
    ) -> None:
        self._limits = limits
        self._worker = Worker()
        encodings = Encodings(model, max_encoding_bytes)

        # What is counted of images and masks is wanted more than steps of undo, which have what those leave.
        undo = UndoMemory(lambda: limits.max_volume_bytes - self.leases.held_bytes)

        def make_session() -> InteractiveSession:
            return InteractiveSession(
                model, encodings, self._worker, licence=licence, undo_memory=undo
            )

        def give_back() -> None:
            model.trim()  # what the largest prompt took would be held for good
            trim_memory()

        def forget_steps() -> None:
            if undo.is_over:
                with suppress(SessionClosed):  # with the worker all steps go
                    self._worker.submit(undo, undo.settling(), Urgency.PROMPT)

        self.leases = Leases(make_session, limits, give_back=give_back, on_held=forget_steps)
        num_threads = limits.max_sessions * limits.max_pending
        self._pool = ThreadPoolExecutor(num_threads, "session")
        serving = Serving(self.leases, limits, self._pool)
        shown = shown or Shown()
        notices = {"model": shown.model, "licence": licence, "caution": shown.caution}
        self._page = Page(
            self.leases,
            notices,
            shown.opened,
            limits.max_image_bytes,
            shown.review,
            shown.reviewer,
            shown.segmentation,
        )
        self.app = application(serving, door, self._page.routes)

    def server(self, started: Callable[[], None] = lambda: None) -> Server:
        """A server of the application, to be run once; `started` is called when it listens."""
        return Server(self.app, self.leases, self._limits, started, self._page.close)

    def close(self) -> None:
        """End what is left; the model stays open."""
        self.leases.close()
        self._worker.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
