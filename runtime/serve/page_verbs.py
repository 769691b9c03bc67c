"""The page's verbs on an object: what a request says, as a call of the session.

Verbs wait for their turn, and masks wait in them as the bits that came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request

from runtime.errors import PromptError
from runtime.serve.bits import check_size, num_bytes, unpack
from runtime.serve.page_requests import BOX, NOTHING, POINT
from runtime.serve.page_verb import Call
from runtime.serve.planes import Box3, as_lists
from runtime.serve.serving import check_json, read_bytes, read_json
from runtime.serve.session import InteractiveSession

Shape = tuple[int, int, int]


async def _point(request: Request, shape: Shape) -> Call:
    body = await read_json(request, POINT)
    return lambda s: s.add_point_interaction(body["kji"], body["positive"])


async def _box(request: Request, shape: Shape) -> Call:
    body = await read_json(request, BOX)
    return lambda s: s.add_bbox_interaction(body["box"], body["positive"])


async def _stroke(request: Request, shape: Shape, is_lasso: bool) -> Call:
    body = check_json(request.headers.get("x-meta", "{}"), BOX)
    box: Box3 = body["box"]
    size = [stop - start for start, stop in box]
    if min(size) < 1 or num_bytes(size) > num_bytes(shape):
        raise PromptError(f"found the box {box}; wanted one with a voxel in it, within the volume")
    data = await read_bytes(request, num_bytes(size))
    check_size(data, size)

    def call(session: InteractiveSession) -> Box3 | None:
        add = session.add_lasso_interaction if is_lasso else session.add_scribble_interaction
        return add(unpack(data, size), body["positive"], interaction_bbox=box)

    return call


async def _plain(request: Request, shape: Shape, call: Call) -> Call:
    await read_json(request, NOTHING)
    return call


def _reset(session: InteractiveSession) -> Box3 | None:
    """Forget the selected object's prompts and mask. Gives where the mask was."""
    spans = next(obj.spans for obj in session.objects if obj.id == session.selected)
    session.reset_interactions()
    return as_lists(spans)


VERBS: dict[str, Callable[[Request, Shape], Awaitable[Call]]] = {
    "point": _point,
    "box": _box,
    "scribble": partial(_stroke, is_lasso=False),
    "lasso": partial(_stroke, is_lasso=True),
    "undo": partial(_plain, call=lambda s: s.undo()),
    "redo": partial(_plain, call=lambda s: s.redo()),
    "predict": partial(_plain, call=lambda s: s.predict()),
    "reset": partial(_plain, call=_reset),
}
"""Name in the path to what reads the request. Raises InputError."""


async def read_seed(request: Request, shape: Shape) -> Call:
    """A whole mask to begin from. Raises InputError."""
    data = await read_bytes(request, num_bytes(shape))
    check_size(data, shape)
    return lambda s: s.add_initial_seg_interaction(unpack(data, shape))
