"""The page itself: a fixed table of files, read once; no path from a request ever reaches the disk."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_WORTH_PACKING = 1024  # bytes


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page, as it is and packed, its type and the tag that its content has."""

    data: bytes
    packed: bytes | None
    media_type: str
    tag: str


@cache
def static_files() -> dict[str, StaticFile]:
    """All files of the page by name."""
    return {path.name: _file(path) for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}


def static_response(request: Request, name: str) -> Response:
    """A file of the page: whole, packed if that is understood, or not at all if the browser has it already."""
    file = static_files().get(name)
    if file is None:
        return Response("no such file", 404, media_type="text/plain")
    # Files of one version belong together, so that browsers ask each time; answers are short if nothing has changed.
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(None, 304, headers)
    data = file.data
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = file.packed, "gzip"
    return Response(data, 200, headers, file.media_type)


def _file(path: Path) -> StaticFile:
    data = path.read_bytes()
    packed = gzip.compress(data, 6, mtime=0) if len(data) > _WORTH_PACKING else None
    tag = f'"{blake2b(data, digest_size=8).hexdigest()}"'
    return StaticFile(data, packed, _TYPES[path.suffix], tag)
