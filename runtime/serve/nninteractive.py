"""nnInteractive's protocol, version 2, for 3D Slicer, napari and every other user of `nninteractive-client`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.errors import InputError
from runtime.files.strict_json import Boolean, Integer, Number, Numbers, Object, OneOf
from runtime.serve import nnia
from runtime.serve.lease import Lease
from runtime.serve.nnia import TooLarge
from runtime.serve.planes import Box3
from runtime.serve.serving import Act, Body, Serving, check_json, read_json, to_json
from runtime.serve.session import InteractiveSession

META, LEASE = "X-Meta", "X-Lease-Token"
FACE = "nninteractive"
BINARY = "application/octet-stream"
BUFFER_DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)))

_INDEX = Number(
    -1e9, 1e9
)  # napari's are fractional; which ones lie in the image is the session's to say
_BOX = Numbers(Numbers(_INDEX, 2, 2), 3, 3)
_FLAGS = {
    name: Boolean()
    for name in ("include_interaction", "run_prediction", "override_capability_checks")
}
_SPACING = Object(optional={"spacing": Numbers(Number(-1e9, 1e9), 1, 4)}, others=True)


@dataclass(frozen=True, slots=True)
class Verb:
    """A request of JSON.

    Attributes:
        rule: what its body may hold.
        call: of the session, with what it holds.
        predicts: whether the changed part of the mask is the answer.
    """

    rule: Object
    call: Callable[[InteractiveSession, dict[str, Any]], Box3 | None]
    predicts: bool = True


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request of an array, its meaning in X-Meta.

    Attributes:
        rule: what X-Meta may hold.
        call: of the session, with the array and what X-Meta holds.
    """

    rule: Object
    call: Callable[[InteractiveSession, NDArray[Any], dict[str, Any]], Box3 | None]


def _flags(said: dict[str, Any], default: bool = True) -> tuple[bool, bool]:
    """Whether a prompt is positive, and whether it is answered."""
    return said.get("include_interaction", True), said.get("run_prediction", default)


def _reset(session: InteractiveSession, said: dict[str, Any]) -> None:
    session.reset_interactions()


VERBS = {
    "/set_do_autozoom": Verb(
        Object({"do_autozoom": Boolean()}, others=True),
        lambda session, said: session.set_do_autozoom(said["do_autozoom"]),
        predicts=False,
    ),
    "/reset_interactions": Verb(Object(others=True), _reset, predicts=False),
    "/undo": Verb(Object(others=True), lambda session, said: session.undo()),
    "/predict": Verb(
        Object(optional={"force_full_refine": Boolean()}, others=True),
        lambda session, said: session.predict(said.get("force_full_refine", False)),
    ),
    "/add_point_interaction": Verb(
        Object({"coordinates": Numbers(_INDEX, 3, 3)}, _FLAGS, others=True),
        lambda session, said: session.add_point_interaction(said["coordinates"], *_flags(said)),
    ),
    "/add_bbox_interaction": Verb(
        Object({"bbox_coords": _BOX}, _FLAGS, others=True),
        lambda session, said: session.add_bbox_interaction(said["bbox_coords"], *_flags(said)),
    ),
}
_DRAWN = Object(optional={**_FLAGS, "interaction_bbox": _BOX}, others=True)
DRAWINGS = {
    "/add_scribble_interaction": Drawing(
        _DRAWN,
        lambda session, drawn, said: session.add_scribble_interaction(
            drawn, *_flags(said), interaction_bbox=said.get("interaction_bbox")
        ),
    ),
    "/add_lasso_interaction": Drawing(
        _DRAWN,
        lambda session, drawn, said: session.add_lasso_interaction(
            drawn, *_flags(said), interaction_bbox=said.get("interaction_bbox")
        ),
    ),
    "/add_initial_seg_interaction": Drawing(
        Object(optional=_FLAGS, others=True),
        lambda session, drawn, said: session.add_initial_seg_interaction(
            drawn, _flags(said, default=False)[1]
        ),
    ),
}


def routes(serving: Serving) -> list[Route]:
    """All paths of the protocol."""
    posts: dict[str, Act] = {
        "/set_image": _set_image,
        "/set_target_buffer": _set_target_buffer,
    }
    posts |= {path: partial(_run_verb, verb=verb) for path, verb in VERBS.items()}
    posts |= {path: partial(_run_drawing, drawing=drawing) for path, drawing in DRAWINGS.items()}
    return [
        Route("/healthz", _healthz),
        Route("/claim", partial(_claim, serving), methods=["POST"]),
        Route("/release", partial(_release, serving), methods=["POST"]),
        Route("/heartbeat", partial(_heartbeat, serving), methods=["POST"]),
        Route("/lease_status", partial(_lease_status, serving)),
        Route("/capabilities", partial(_capabilities, serving)),
        *(
            Route(path, partial(_act, serving, handle), methods=["POST"])
            for path, handle in posts.items()
        ),
    ]


async def _healthz(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def _claim(serving: Serving, request: Request) -> Response:
    lease, limits = serving.leases.grant(FACE), serving.limits
    return JSONResponse(
        {
            "lease_token": lease.token,
            "idle_timeout_seconds": limits.idle_s,
            "liveness_timeout_seconds": limits.silent_s,
            "max_sessions": limits.max_sessions,
        }
    )


async def _release(serving: Serving, request: Request) -> Response:
    serving.leases.release(request.headers.get(LEASE))
    return JSONResponse({"released": True})


async def _heartbeat(serving: Serving, request: Request) -> Response:
    lease = serving.leases.of(request.headers.get(LEASE), is_active=False, face=FACE)
    return JSONResponse({"remaining_seconds": serving.leases.remaining_s(lease.token)})


async def _lease_status(serving: Serving, request: Request) -> Response:
    lease = serving.leases.peek(request.headers.get(LEASE))
    return JSONResponse(
        {
            "remaining_seconds": serving.leases.remaining_s(lease.token),
            "idle_timeout_seconds": serving.limits.idle_s,
        }
    )


async def _capabilities(serving: Serving, request: Request) -> Response:
    lease = serving.leases.of(request.headers.get(LEASE), is_active=False, face=FACE)
    return JSONResponse(lease.session.capabilities)


async def _act(serving: Serving, do: Act, request: Request) -> Response:
    return await serving.act(FACE, request.headers.get(LEASE), do, request)


async def _run_verb(serving: Serving, request: Request, lease: Lease, verb: Verb) -> Response:
    said = await read_json(request, verb.rule)

    def work() -> Response:
        box = verb.call(lease.session, said)
        return _prediction(lease.session, box) if verb.predicts else JSONResponse({})

    return await serving.call(request, lease, work)


async def _run_drawing(
    serving: Serving, request: Request, lease: Lease, drawing: Drawing
) -> Response:
    said = check_json(request.headers.get(META, "{}"), drawing.rule)

    def work(drawn: NDArray[Any]) -> Response:
        return _prediction(lease.session, drawing.call(lease.session, drawn, said))

    return await _with_array(serving, request, lease, 3, work)


async def _set_image(serving: Serving, request: Request, lease: Lease) -> Response:
    rule = Object(optional={"image_properties": _SPACING}, others=True)
    said = check_json(request.headers.get(META, "{}"), rule).get("image_properties", {})
    spacing = said.get("spacing", [])
    is_known = len(spacing) == 3 and min(spacing) > 0

    def work(image: NDArray[Any]) -> Response:
        if image.shape[0] != 1:
            raise InputError(f"found an image of {image.shape[0]} channels; wanted 1")
        serving.leases.hold(
            lease, "image", image.size
        )  # the session keeps eight bits of each voxel
        lease.session.set_image(image, {"spacing": spacing} if is_known else {})
        return JSONResponse({"original_image_shape": list(image.shape)})

    return await _with_array(serving, request, lease, 4, work)


async def _with_array(
    serving: Serving,
    request: Request,
    lease: Lease,
    num_dimensions: int,
    work: Callable[[NDArray[Any]], Response],
) -> Response:
    """Do something with the array in a body, whose memory is counted from its head on and until the end."""
    body, most = Body(request), serving.limits.max_image_bytes
    head = nnia.read_head(await body.first(nnia.HEAD_BYTES), most, num_dimensions)
    packed_bytes = int(request.headers.get("content-length", head.num_bytes))
    upload = f"upload {id(body)}"
    serving.leases.hold(lease, upload, packed_bytes + head.num_bytes)
    try:
        content = await body.whole()
        return await serving.call(
            request, lease, lambda: work(nnia.unpack(content, most, num_dimensions))
        )
    finally:
        serving.leases.let_go(lease, upload)


async def _set_target_buffer(serving: Serving, request: Request, lease: Lease) -> Response:
    rule = Object(
        {"shape": Numbers(Integer(1, 2**31), 3, 3), "dtype": OneOf(BUFFER_DTYPES)}, others=True
    )
    said = await read_json(request, rule)
    shape, dtype = said["shape"], np.dtype(said["dtype"])
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes > serving.limits.max_image_bytes:
        raise TooLarge(
            f"found a buffer of {num_bytes} bytes; wanted {serving.limits.max_image_bytes} at the most"
        )
    serving.leases.hold(lease, "buffer", num_bytes)

    def work() -> Response:
        lease.session.set_target_buffer(np.zeros(shape, dtype))
        return JSONResponse({})

    return await serving.call(request, lease, work)


def _prediction(session: InteractiveSession, box: Box3 | None) -> Response:
    """The part of the mask that has changed."""
    if box is None or not session.ran_prediction:
        meta: dict[str, Any] = {"ran_prediction": session.ran_prediction, "bbox": None}
        return Response(b"", headers={META: to_json(meta)}, media_type=BINARY)
    changed = session.target_buffer[tuple(slice(start, stop) for start, stop in box)]
    meta = {
        "ran_prediction": True,
        "bbox": box,
        "dtype": changed.dtype.name,
        "shape": list(changed.shape),
    }
    return Response(nnia.pack(changed), headers={META: to_json(meta)}, media_type=BINARY)
