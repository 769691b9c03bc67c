"""The page and its API: routes for an app that has judged host, origin, key and length already.

Sessions travel in the header X-Lease-Token, masks as bits (`runtime.serve.bits`), and whatever takes time is
answered with 202 and told by server-sent events.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from runtime.cohort.review import Review
from runtime.io.dicom.seg import SegmentationOptions
from runtime.io.volumes.volume import Volume
from runtime.serve.bits import num_bytes, pack
from runtime.serve.choices import SeveralVolumes
from runtime.serve.leases import LeaseExpired, Leases
from runtime.serve.page_answers import FRESH, Handler, answered, json_answer
from runtime.serve.page_events import PING
from runtime.serve.page_exports import LABELS, check_export, export_bytes, exported
from runtime.serve.page_requests import HEARTBEAT, LOOK, NOTHING, object_of
from runtime.serve.page_review import PageReview
from runtime.serve.page_session import PageSession
from runtime.serve.page_static import INDEX, static_response
from runtime.serve.page_verb import Call
from runtime.serve.page_verbs import VERBS, read_seed
from runtime.serve.page_work import error_words
from runtime.serve.received_files import received
from runtime.serve.serving import read_json
from runtime.serve.shown_volume import ShownVolume

LEASE = "x-lease-token"
STREAMED = {**FRESH, "X-Accel-Buffering": "no"}  # nginx would keep events until it has many
_FILE = "application/octet-stream"


class Page:
    """The page's routes.

    Args:
        leases: where sessions come from, and who counts their memory.
        notices: what the page shows of the model: "model", "licence", and "caution" or None.
        opened: a volume that every page begins with.
        max_upload_bytes: of files that are sent together.
        review: of a cohort whose masks are looked at, if any.
        reviewer: who does.
        segmentation: how masks are written as DICOM.

    Raises InputError for a volume that has no window.
    """

    def __init__(
        self,
        leases: Leases,
        notices: dict[str, str | None],
        opened: Volume | None = None,
        max_upload_bytes: int = 2 << 30,
        review: Review | None = None,
        reviewer: str = "",
        segmentation: SegmentationOptions | None = None,
    ) -> None:
        self._leases, self._notices, self._max_upload_bytes = leases, notices, max_upload_bytes
        self._opened = None if opened is None else ShownVolume.of(opened, Path(opened.source).name)
        self._segmentation = segmentation or SegmentationOptions()
        self._pages: dict[str, PageSession] = {}
        # Nobody knows what a file unpacks to before it has been read.
        self._reading = asyncio.Lock()
        self._server = uuid.uuid4().hex[:12]
        self._review = None if review is None else PageReview(review, reviewer, self)

    @property
    def routes(self) -> list[Route]:
        """All of them, for a Starlette app."""
        one = "/api/objects/{object_id}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/api/session", self._claim),
            ("GET", "/api/session", self._state),
            ("DELETE", "/api/session", self._release),
            ("POST", "/api/heartbeat", self._heartbeat),
            ("POST", "/api/leave", self._leave),
            ("POST", "/api/volume", self._open),
            ("GET", "/api/volume", self._voxels),
            ("POST", "/api/objects", self._add_object),
            ("PATCH", one, self._change_object),
            ("DELETE", one, self._remove_object),
            ("GET", f"{one}/mask", self._mask),
            ("PUT", f"{one}/mask", self._seed),
            *(("POST", f"{one}/{verb}", self._verb) for verb in VERBS),
            ("POST", "/api/cancel", self._cancel),
            ("GET", "/api/export", self._export),
            ("GET", "/api/events", self._events),
            *(self._review.table if self._review else ()),
        ]
        api = [Route(path, answered(handler), methods=[verb]) for verb, path, handler in table]
        return [Route("/", self._index), Route("/page/{name}", self._static), *api]

    def close(self) -> None:
        """End all streams of events."""
        for page in [*self._pages.values()]:
            page.events.end("closing")
        self._pages.clear()

    async def _index(self, request: Request) -> Response:
        return static_response(request, INDEX)

    async def _static(self, request: Request) -> Response:
        return static_response(request, request.path_params["name"])

    def session_of(self, request: Request, is_active: bool = True) -> PageSession:
        """The page's session. Raises LeaseExpired."""
        token = _token(request)
        try:
            self._leases.of(token, is_active)
        except LeaseExpired:
            self._drop(token)
            raise
        if token not in self._pages:
            raise LeaseExpired(
                "this session is another client's; reload the page for one of its own"
            )
        return self._pages[token]

    def _drop(self, token: str) -> None:
        if page := self._pages.pop(token, None):
            page.events.end("expired")

    async def _claim(self, request: Request) -> Response:
        await read_json(request, NOTHING)
        lease = await to_thread.run_sync(self._leases.grant, "page")
        hold = partial(self._leases.hold, lease, "verbs")
        page = self._pages[lease.token] = PageSession(lease.session, hold)
        lease.on_end = partial(self._drop, lease.token)  # who closed the browser never asks again
        try:
            if self._opened is not None:
                await self._hold_and_show(lease.token, page, self._opened)
        except BaseException:
            self._leases.release(lease.token)
            raise
        return json_answer({"token": lease.token, **self.described(page)}, 201)

    async def show(self, request: Request, page: PageSession, shown: ShownVolume) -> None:
        """Give a session a volume, if there is memory for it. Raises OutOfMemory, InputError."""
        await self._hold_and_show(_token(request), page, shown)

    async def _hold_and_show(self, token: str, page: PageSession, shown: ShownVolume) -> None:
        """Give a session a volume, if there is memory for it. Raises OutOfMemory, InputError."""
        array = shown.volume.array
        own = 0 if shown is self._opened else array.nbytes + shown.sources_bytes
        # The session's own copy in eight bits, and the mask of its first object.
        self._leases.hold(self._leases.of(token), "image", own + 2 * array.size)
        await to_thread.run_sync(page.show, shown)
        self._hold_objects(token, page)

    def _hold_objects(self, token: str, page: PageSession, more: int = 0) -> None:
        """Count the masks of objects but the first's, and of so many more. Raises OutOfMemory."""
        number = len(page.objects()) - 1 + more
        size = page.need_volume().volume.array.size
        self._leases.hold(self._leases.of(token), "objects", number * size)

    async def _state(self, request: Request) -> Response:
        return json_answer(self.described(self.session_of(request, is_active=False)))

    def described(self, page: PageSession) -> dict[str, Any]:
        """What the page is told of its session."""
        return {
            "review": self._review is not None,
            "volume": None if page.shown is None else page.shown.describe(),
            "objects": page.objects(),
            "busy": page.is_busy,
            "server": self._server,
            "notices": self._notices,
            "idle_timeout_s": self._leases.idle_timeout_s,
            "max_upload_bytes": self._max_upload_bytes,
        }

    async def _release(self, request: Request) -> Response:
        self._drop(_token(request))
        await to_thread.run_sync(self._leases.release, _token(request))
        return Response(None, 204, FRESH)

    async def _heartbeat(self, request: Request) -> Response:
        body = await read_json(request, HEARTBEAT)
        page = self.session_of(request, is_active=body.get("active", False))
        if page.is_busy:  # whoever waits for an object that is followed does nothing meanwhile
            self._leases.of(_token(request))
        return json_answer({"remaining_seconds": self._leases.remaining_s(_token(request))})

    async def _leave(self, request: Request) -> Response:
        await read_json(request, NOTHING)
        self._leases.leave(_token(request))
        return Response(None, 204, FRESH)

    async def _open(self, request: Request) -> Response:
        page, token = self.session_of(request), _token(request)
        lease, most = self._leases.of(token), self._max_upload_bytes
        size = int(request.headers.get("content-length", most))
        try:
            with self._leases.working(lease), self._leases.holding(lease, size):
                async with received(request.stream(), most) as read, self._reading:
                    await _check_there(request)
                    with self._leases.replacing(lease, "image") as take:
                        shown = await to_thread.run_sync(read, take)
                    await _check_there(request)
                    await self._hold_and_show(token, page, shown)
        except SeveralVolumes as several:
            return json_answer({**error_words(several), "choices": several.choices}, 409)
        return json_answer(self.described(page))

    async def _voxels(self, request: Request) -> Response:
        shown = self.session_of(request, is_active=False).need_volume()
        size, pieces = shown.nifti()
        headers = {**FRESH, "Content-Length": str(size), "X-Volume-Id": shown.id}
        return StreamingResponse(pieces, 200, headers, _FILE)

    async def _add_object(self, request: Request) -> Response:
        look = await read_json(request, LOOK)
        page = self.session_of(request)
        added = self.add_object(request, page, look.get("name"), look.get("colour"))
        return json_answer(added, 201)

    def add_object(
        self, request: Request, page: PageSession, name: str | None, colour: str | None = None
    ) -> dict[str, Any]:
        """Another object, if there is memory for it. Raises OutOfMemory, InputError, NoImage."""
        self._hold_objects(_token(request), page, more=1)
        return page.add_object(name, colour)

    async def _change_object(self, request: Request) -> Response:
        look = await read_json(request, LOOK)
        page, object_id = self.session_of(request), object_of(request)
        return json_answer(page.change_object(object_id, look.get("name"), look.get("colour")))

    async def _remove_object(self, request: Request) -> Response:
        page, object_id = self.session_of(request), object_of(request)
        await to_thread.run_sync(page.remove_object, object_id)
        self._hold_objects(_token(request), page)
        return json_answer({"objects": page.objects()})

    async def _mask(self, request: Request) -> Response:
        mask = self.session_of(request, is_active=False).mask(object_of(request))
        headers = {**FRESH, "X-Mask-Shape": ",".join(map(str, mask.shape))}
        return Response(await to_thread.run_sync(pack, mask), 200, headers, _FILE)

    async def _seed(self, request: Request) -> Response:
        page = self.session_of(request)
        call = await read_seed(request, page.need_volume().volume.shape)
        return self._submitted(request, page, call)

    async def _verb(self, request: Request) -> Response:
        page, verb = self.session_of(request), request.url.path.rsplit("/", 1)[-1]
        call = await VERBS[verb](request, page.need_volume().volume.shape)
        return self._submitted(request, page, call)

    def _submitted(self, request: Request, page: PageSession, call: Call) -> Response:
        most = num_bytes(page.need_volume().volume.shape)
        size = int(request.headers.get("content-length", most))
        return json_answer({"seq": page.submit(object_of(request), call, size)}, 202)

    async def _cancel(self, request: Request) -> Response:
        page = self.session_of(request)
        return json_answer({"cancelled": await to_thread.run_sync(page.cancel)})

    async def _export(self, request: Request) -> Response:
        page, lease = self.session_of(request), self._leases.of(_token(request))
        suffix = request.query_params.get("format", LABELS[0])
        check_export(page.need_volume(), suffix)
        size = export_bytes(page, suffix)
        with self._leases.working(lease), self._leases.holding(lease, size):
            data = await to_thread.run_sync(exported, page, suffix, self._segmentation)
        headers = {**FRESH, "Content-Disposition": f'attachment; filename="masks.{suffix}"'}
        return Response(data, 200, headers, _FILE)

    async def _events(self, request: Request) -> Response:
        stream = self._stream(self.session_of(request, is_active=False), _token(request))
        return StreamingResponse(stream, 200, STREAMED, "text/event-stream")

    async def _stream(self, page: PageSession, token: str) -> AsyncIterator[bytes]:
        async for event in page.events.read({"server": self._server}):
            if event is None and self._leases.remaining_s(token) <= 0:
                self._drop(token)
            yield PING if event is None else event


async def _check_there(request: Request) -> None:
    """Raise ClientDisconnect for a page that has stopped it, and looks at what was there before."""
    if await request.is_disconnected():
        raise ClientDisconnect


def _token(request: Request) -> str:
    return request.headers.get(LEASE, "")
