"""ITK-SNAP's deep learning server: the paths its client asks for, those of old ones too.

Voxels travel as one gzip member, x fastest, and a whole mask comes back for every prompt. Coordinates are (x, y, z).
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.errors import InputError
from runtime.files.strict_json import Integer, Number, Numbers, Object, OneOf
from runtime.serve.lease import Lease
from runtime.serve.markings import tight
from runtime.serve.multipart import read_form
from runtime.serve.nnia import TooLarge
from runtime.serve.planes import as_lists, part_of
from runtime.serve.serving import Act, Serving, check_json
from runtime.serve.session import InteractiveSession

VERSION = "0.1.2"
"""Of the protocol: the client compares it, and takes nothing older."""
MODEL = "medsam2"
FACE = "itksnap"
PREFIXES = ("", "/v2")
DTYPES = ("float32", "float64", *(f"{s}int{bits}" for s in ("", "u") for bits in (8, 16, 32, 64)))
MAX_SIDE = 2**20
_METADATA_BYTES = 64 * 1024
_PIECE = 2**20
_METADATA = Object(
    {"dimensions": Numbers(Integer(1, MAX_SIDE), 3, 3)},
    {
        "components_per_pixel": Integer(1, 1),
        "component_type": OneOf(DTYPES),
        "spacing": Numbers(Number(-1e9, 1e9), 3, 3),
    },
    others=True,
)
_WHOLE = re.compile(r"-?\d{1,9}", re.ASCII)


def routes(serving: Serving) -> list[Route]:
    """All paths of the protocol, each with and without its prefix."""
    gets: dict[str, Act] = {
        "/process_point_interaction/{sid}": _point,
        "/reset_interactions/{sid}": _reset,
    }
    posts: dict[str, Act] = {
        "/upload_raw/{sid}": _upload,
        "/process_scribble_interaction/{sid}": partial(
            _draw, verb=lambda s: s.add_scribble_interaction
        ),
        "/process_lasso_interaction/{sid}": partial(_draw, verb=lambda s: s.add_lasso_interaction),
    }
    table = []
    for prefix in PREFIXES:
        table += [
            Route(f"{prefix}/status", _status),
            Route(f"{prefix}/models", _models),
            Route(f"{prefix}/start_session", partial(_start, serving)),
            Route(f"{prefix}/start_session/{{model}}", partial(_start, serving)),
            Route(f"{prefix}/end_session/{{sid}}", partial(_end, serving)),
            *(Route(prefix + path, partial(_act, serving, do)) for path, do in gets.items()),
            *(
                Route(prefix + path, partial(_act, serving, do), methods=["POST"])
                for path, do in posts.items()
            ),
        ]
    return table


async def _status(request: Request) -> Response:
    return JSONResponse({"status": "ok", "version": VERSION})


async def _models(request: Request) -> Response:
    interactions = ["point", "box", "scribble", "lasso"]
    model = {"id": MODEL, "channels": [1], "dimensions": 3, "interactions": interactions}
    return JSONResponse({"models": [model]})


async def _start(serving: Serving, request: Request) -> Response:
    name = request.path_params.get("model", MODEL)
    if name != MODEL:
        raise InputError(f"found the model {name[:60]!r}; there is {MODEL}")
    return JSONResponse({"session_id": serving.leases.grant(FACE).token})


async def _end(serving: Serving, request: Request) -> Response:
    serving.leases.release(request.path_params["sid"])
    return JSONResponse({"status": "success"})


async def _act(serving: Serving, do: Act, request: Request) -> Response:
    return await serving.act(FACE, request.path_params["sid"], do, request)


async def _reset(serving: Serving, request: Request, lease: Lease) -> Response:
    await serving.call(request, lease, lease.session.reset_interactions)
    return JSONResponse({"status": "success"})


async def _upload(serving: Serving, request: Request, lease: Lease) -> Response:
    def work(image: NDArray[Any], said: dict[str, Any]) -> Response:
        serving.leases.hold(lease, "image", image.size)
        serving.leases.hold(lease, "buffer", image.size)
        spacing = said.get("spacing", [])
        is_known = len(spacing) == 3 and min(spacing) > 0
        lease.session.set_image(image[None], {"spacing": spacing[::-1]} if is_known else {})
        lease.session.set_target_buffer(np.zeros(image.shape, np.uint8))
        return JSONResponse({"status": "success"})

    return await _with_image(serving, request, lease, work)


async def _point(serving: Serving, request: Request, lease: Lease) -> Response:
    query = request.query_params
    texts = query.getlist("point") or [query.get(axis, "") for axis in "xyz"]
    if len(texts) != 3 or not all(_WHOLE.fullmatch(text) for text in texts):
        raise InputError(f"found the point {texts!r:.60}; wanted three whole numbers, x, y and z")
    point = [int(text) for text in reversed(texts)]
    is_positive = _is_foreground(request)

    def work() -> Response:
        lease.session.add_point_interaction(point, is_positive)
        return _mask(lease.session)

    return await serving.call(request, lease, work)


async def _draw(
    serving: Serving,
    request: Request,
    lease: Lease,
    verb: Callable[[InteractiveSession], Callable[..., object]],
) -> Response:
    """Hand what is drawn to one of the session's verbs."""
    is_positive = _is_foreground(request)

    def work(image: NDArray[Any], said: dict[str, Any]) -> Response:
        drawn = image > 0  # NaN is not
        if drawn.shape != lease.session.target_buffer.shape:
            raise InputError(
                f"found a drawing of {drawn.shape}; wanted the image's {lease.session.target_buffer.shape}"
            )
        if (spans := tight(drawn)) is None:
            raise InputError("found a drawing without a voxel that is set")
        crop = part_of(drawn, spans).astype(np.uint8)
        verb(lease.session)(crop, is_positive, interaction_bbox=as_lists(spans))
        return _mask(lease.session)

    return await _with_image(serving, request, lease, work)


async def _with_image(
    serving: Serving,
    request: Request,
    lease: Lease,
    work: Callable[[NDArray[Any], dict[str, Any]], Response],
) -> Response:
    """Do something with the image (z, y, x) of a form and what its metadata say, its memory counted meanwhile."""
    limits = serving.limits
    packed_bytes = int(request.headers.get("content-length", limits.max_upload_bytes))
    upload = f"upload {id(request)}"
    serving.leases.hold(lease, upload, packed_bytes)
    try:
        parts = await read_form(
            request, {"file": limits.max_upload_bytes, "metadata": _METADATA_BYTES}
        )
        said = check_json(bytes(parts["metadata"]), _METADATA)
        shape = tuple(reversed(said["dimensions"]))
        dtype = np.dtype(said.get("component_type", "float32"))
        num_bytes = prod(shape) * dtype.itemsize
        if num_bytes > limits.max_image_bytes:
            raise TooLarge(
                f"found an image of {num_bytes} bytes; wanted {limits.max_image_bytes} at the most"
            )
        serving.leases.hold(lease, upload, len(parts["file"]) + num_bytes)

        def unpacked() -> Response:
            voxels = inflate(parts["file"], num_bytes)
            return work(voxels.view(dtype.newbyteorder("<")).reshape(shape), said)

        return await serving.call(request, lease, unpacked)
    finally:
        serving.leases.let_go(lease, upload)


def inflate(packed: bytes | bytearray, num_bytes: int) -> NDArray[np.uint8]:
    """What one gzip member holds, if it is exactly so many bytes; never more is inflated. Raises InputError."""
    voxels = np.zeros(num_bytes, np.uint8)
    inflater, view = zlib.decompressobj(16 + zlib.MAX_WBITS), memoryview(packed)
    filled, taken, rest = 0, 0, b""
    while not inflater.eof:
        if not rest:
            rest = bytes(view[taken : taken + _PIECE])
            taken += len(rest)
        most = min(_PIECE, num_bytes - filled) + 1  # one more tells of too many
        try:
            piece = inflater.decompress(rest, most)
        except zlib.error as error:
            raise InputError(f"found a gzip stream that is damaged ({error})") from error
        if filled + len(piece) > num_bytes:
            raise InputError(f"found more than the {num_bytes} bytes of its dimensions")
        if not rest and not piece:
            raise InputError("found a gzip stream that is cut short")
        voxels[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled, rest = filled + len(piece), inflater.unconsumed_tail
    if filled != num_bytes:
        raise InputError(
            f"found {filled} bytes of voxels; wanted the {num_bytes} of its dimensions"
        )
    if inflater.unused_data or taken < len(view):
        raise InputError("found bytes behind the end of a gzip stream")
    return voxels


def _is_foreground(request: Request) -> bool:
    text = request.query_params.get("foreground", "false").lower()
    if text not in ("true", "false"):
        raise InputError(f"found foreground={text[:30]!r}; wanted true or false")
    return text == "true"


def _mask(session: InteractiveSession) -> Response:
    """The whole mask, a byte a voxel, as one gzip member in one line of base64."""
    mask = np.ascontiguousarray(session.target_buffer != 0).view(np.int8)
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_RLE)
    packed = packer.compress(mask.data) + packer.flush()
    return JSONResponse({"status": "success", "result": base64.b64encode(packed).decode("ascii")})
