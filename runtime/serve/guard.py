"""What a request has to pass before a byte of its body is read, and what its body has to pass while it arrives.

In this order: the name it was sent to, the page it comes from, the key, its length. The lease is asked for next, by the
face that knows where it is. Whatever is refused is answered at once and its body thrown away, see `connection.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.serve.hosts import Hosts, host_of
from runtime.serve.limits import Limits
from runtime.serve.statuses import Refused, response_to

log = logging.getLogger("runtime.serve")

SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
NO_STORE = (b"cache-control", b"no-store")
HEAD_BYTES = 16 * 1024  # of a request's line and headers
ONCE = (b"host", b"origin", b"authorization", b"x-lease-token", b"x-meta", b"content-encoding")
OPEN_PATHS = ("/", "/healthz", "/favicon.ico")
"""That need no key, as everything below `OPEN_FOLDER`: they hold nothing."""
OPEN_FOLDER = "/page/"
VOXEL_PATHS = ("/set_image", "/add_", "/upload_raw/", "/v2/", "/process_", "/api/volume")
"""Beginnings of paths whose bodies may be as long as an image."""
PAGE_PATHS = "/api/"
PAGE_BYTES = 8 * 2**20


class Guard:
    """An ASGI application around another.

    Args:
        app: that is guarded.
        hosts: names that are answered to.
        key: that clients have to show; None where the server is for this machine alone.
        limits: of lengths and times.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, key: str | None, limits: Limits) -> None:
        self._app, self._hosts, self._limits = app, hosts, limits
        self._digest = _digest(key) if key is not None else None
        self._num_wrong = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, path = Headers(scope=scope), scope["path"]
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
                if not path.startswith(OPEN_FOLDER):
                    message["headers"].append(NO_STORE)
            await send(message)

        try:
            check_head(scope)
            self._check_host(headers)
            check_origin(headers, scope["method"], path)
            self._check_key(headers, path, scope.get("client"))
            most = self._check_length(headers, path)
            await self._app(scope, _Counted(receive, most, self._limits).receive, answer)
        except Exception as error:
            if has_begun:
                raise
            await response_to(error)(scope, receive, answer)

    def _check_host(self, headers: Headers) -> None:
        name = host_of(headers.get("host", ""))
        if not self._hosts.answers_to(name):
            raise Refused(
                421,
                f"found the host {name[:100]!r}; wanted a name of this server's. Use its address, or start it with "
                "--allow-host NAME",
            )

    def _check_key(self, headers: Headers, path: str, client: tuple[str, int] | None) -> None:
        if self._digest is None or is_open(path):
            return
        shown = shown_key(headers.get("authorization", ""))
        if not hmac.compare_digest(_digest(shown), self._digest):
            if shown:  # the page asks without one first
                self._note_wrong(client)
            raise Refused(
                401,
                "wanted this server's key as the API key (Authorization: Bearer KEY), or in the address as "
                "http://snap:KEY@host:port",
                {"WWW-Authenticate": "Bearer"},
            )

    def _note_wrong(self, client: tuple[str, int] | None) -> None:
        """Have whoever runs the server know of keys that are guessed: of the 1st, the 10th, the 100th and so on."""
        self._num_wrong += 1
        if str(self._num_wrong).strip("0") == "1":
            host = client[0] if client else "somewhere"
            log.warning("wrong keys shown so far: %d, the latest from %s", self._num_wrong, host)

    def _check_length(self, headers: Headers, path: str) -> int:
        """Bytes that the body may have. Raises Refused for one that says that it has more."""
        most = self._limits.max_text_bytes
        if path.startswith(VOXEL_PATHS):
            most = self._limits.max_upload_bytes
        elif path.startswith(PAGE_PATHS):
            most = max(PAGE_BYTES, self._limits.max_image_bytes // 8)
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Refused(400, "found a Content-Length and a Transfer-Encoding; wanted one of them")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refused(400, "found a Content-Length that is no number")
        if len(length) > 18 or int(length) > most:
            raise Refused(413, f"found a body of {length[:30]} bytes; wanted {most} at the most")
        if "transfer-encoding" not in headers and "content-encoding" not in headers:
            return min(most, int(length))
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "found a body with a Content-Encoding; wanted it as it is")
        return most


class _Counted:
    """What arrives of a body, counted and timed; once it is whole, nothing is."""

    def __init__(self, receive: Receive, most: int, limits: Limits) -> None:
        self._receive, self._most, self._limits = receive, most, limits
        self._begun: float | None = None
        self._count = 0
        self._is_whole = False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        now = time.monotonic()
        self._begun = self._begun or now
        deadline = self._begun + self._limits.body_deadline_s(self._count)
        try:
            async with asyncio.timeout(deadline - now):
                message = await self._receive()
        except TimeoutError:
            self._is_whole = True
            raise Refused(
                408, f"found {self._count} bytes of a body that came too slowly"
            ) from None
        self._count += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._count > self._most:
            self._is_whole = True
            raise Refused(413, f"found a body of more than {self._most} bytes")
        return message


def check_head(scope: Scope) -> None:
    """Refuse a long head that came in one piece (uvicorn refuses it in several), and headers of which two may differ.

    Raises Refused.
    """
    names = [name for name, _ in scope["headers"]]
    if twice := [name for name in ONCE if names.count(name) > 1]:
        raise Refused(400, f"found two headers {twice[0].decode()}; wanted one")
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES:
        raise Refused(431, f"found a head of more than {HEAD_BYTES} bytes")


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def check_origin(headers: Headers, method: str, path: str) -> None:
    """Refuse what a page from elsewhere sends; a link from elsewhere to our page is followed. Raises Refused."""
    site = headers.get("sec-fetch-site", "same-origin").lower()
    is_link = headers.get("sec-fetch-mode") == "navigate" and method == "GET" and path == "/"
    if site not in ("same-origin", "none") and not is_link:
        raise Refused(
            403, f"found a request of a page from elsewhere ({site[:20]}); wanted our own"
        )
    origin = headers.get("origin")
    own = headers.get("host", "").strip().lower()
    if origin is not None and origin.strip().lower() not in (f"http://{own}", f"https://{own}"):
        raise Refused(403, f"found a request of the page {origin[:100]!r}; wanted our own")


def shown_key(authorization: str) -> str:
    """The key in an Authorization header: Bearer's, or the password of Basic; "" where there is none."""
    kind, _, value = authorization.strip().partition(" ")
    value = value.strip()
    if kind.lower() == "bearer":
        return value
    if kind.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2]


def _digest(key: str) -> bytes:
    """Of a length that tells nothing of the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
