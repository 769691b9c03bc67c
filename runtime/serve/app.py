"""All faces of the server as one ASGI application."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Message, Receive, Scope, Send

from runtime.serve import itksnap, nninteractive
from runtime.serve.guard import Guard
from runtime.serve.hosts import Hosts
from runtime.serve.serving import Serving
from runtime.serve.statuses import Refused

log = logging.getLogger("runtime.serve")

QUIET = ("/healthz", "/heartbeat", "/lease_status", "/api/heartbeat")
"""That are asked for all the time."""
WELCOME = """This is a server for interactive segmentation.

3D Slicer and napari: give nnInteractive's extension this address.
ITK-SNAP: give its deep learning panel this host and port.
"""


@dataclass(frozen=True, slots=True)
class Door:
    """Who is let in.

    Attributes:
        hosts: names that are answered to.
        key: that has to be shown, if any.
    """

    hosts: Hosts
    key: str | None = None


def application(serving: Serving, door: Door, page: Sequence[BaseRoute] = ()) -> Guard:
    """The server as an ASGI application.

    Args:
        serving: sessions and limits.
        door: who is let in.
        page: routes of the page and its API.
    """
    routes = [*page, *nninteractive.routes(serving), *itksnap.routes(serving)]
    if not page:
        routes.append(Route("/", _welcome))
    return Guard(_Faces(routes), door.hosts, door.key, serving.limits)


async def _welcome(request: Request) -> Response:
    return PlainTextResponse(WELCOME)


class _Faces:
    """A router that says what it does not know, and writes down what was asked in words that hold no secret."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = list(routes)
        self._router = Router(self._routes, redirect_slashes=False, default=_unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, outcome = time.monotonic(), "nothing"

        async def answer(message: Message) -> None:
            nonlocal outcome
            outcome = str(message.get("status", outcome))
            await send(message)

        route, others = self._match(scope)
        if route is None and others:
            methods = ", ".join(sorted(others))
            raise Refused(
                405, f"found {scope['method'][:20]}; wanted {methods}", {"Allow": methods}
            )
        try:
            await self._router(scope, receive, answer)
        except Exception as error:  # which the guard answers; its words may be of images
            outcome = type(error).__name__
            raise
        finally:
            if scope["path"] not in QUIET:
                took_ms = 1e3 * (time.monotonic() - began)
                name = getattr(route, "path", "?")  # as a pattern: paths may hold a session
                level = logging.INFO if scope["method"] == "POST" else logging.DEBUG
                log.log(level, "%s: %s in %.0f ms", name, outcome, took_ms)

    def _match(self, scope: Scope) -> tuple[BaseRoute | None, set[str]]:
        """The route of a request, or the methods that its path has instead."""
        methods: set[str] = set()
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route, set()
            if match is Match.PARTIAL:
                methods |= getattr(route, "methods", None) or set()
        return None, methods


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refused(
        404,
        "nothing is here; this server speaks nnInteractive's protocol version 2 and ITK-SNAP's, see docs/viewers.md",
    )
