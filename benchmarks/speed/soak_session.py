"""One session of a soak: an image, prompts drawn at random, and one of the ends that sessions have."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Sam2Error
from runtime.measure.phantom import Phantom, make_phantom

MOST_VERBS = 2
TIMEOUT_S = 600.0
PLANES = (
    0.9,
    0.05,
    0.05,
)  # how often a box lies across each axis: there are more slices across the others
RELEASED, SILENT = "released", "left without a word"
IN_A_PROMPT, IN_AN_UPLOAD = "gone in a prompt", "gone in an upload"
ENDS = {RELEASED: 0.7, SILENT: 0.1, IN_A_PROMPT: 0.1, IN_AN_UPLOAD: 0.1}
"""How a session ends, and how often."""


class Client:
    """Requests over one connection, each of which has to be answered by 200.

    Args:
        port: of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port, self.token = port, ""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, body: bytes = b"", meta: Any = None) -> bytes:
        """The body of the answer. Raises Sam2Error for another status."""
        self._connection.request(method, path, body, self._headers(meta))
        response = self._connection.getresponse()
        found = response.read()
        if response.status != 200:
            raise Sam2Error(f"the server answered {response.status} to {path}: {found[:300]!r}")
        return found

    def say(self, path: str, **words: Any) -> bytes:
        """The same for a POST of JSON."""
        return self.ask("POST", path, json.dumps(words).encode())

    def vanish(self, path: str, body: bytes, share: float = 1.0) -> None:
        """Send a part of a request from a connection of its own, and go away without an answer."""
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self._headers(None).items()]
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            connection.sendall(body[: round(share * len(body))])

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _headers(self, meta: Any) -> dict[str, str]:
        headers = {"X-Lease-Token": self.token} if self.token else {}
        return headers | ({"X-Meta": json.dumps(meta)} if meta is not None else {})


@dataclass(frozen=True, slots=True)
class Lived:
    """What became of a session.

    Attributes:
        first_prompt_s: until the box that each begins with was answered.
        end: one of `ENDS`.
        verbs: what was asked for in between.
    """

    first_prompt_s: float
    end: str
    verbs: tuple[str, ...]


def live(port: int, shape: tuple[int, int, int], number: int) -> Lived:
    """A session from its beginning to its end; all that is random follows from its number.

    Raises Sam2Error for whatever the server does not answer with 200.
    """
    rng = np.random.default_rng(number)
    client, phantom = Client(port), make_phantom(shape, seed=number)
    try:
        client.token = str(json.loads(client.ask("POST", "/claim"))["lease_token"])
        image = _pack(phantom.pixels[None].astype(np.int16))
        client.ask("POST", "/set_image", image)
        client.say("/set_target_buffer", shape=shape, dtype="uint8")
        middle = shape[0] // 2
        box = phantom.box(middle, 1)
        began = time.perf_counter()
        client.say("/add_bbox_interaction", bbox_coords=[[middle, middle + 1], [*box.y], [*box.x]])
        took_s = time.perf_counter() - began
        verbs = tuple(map(str, rng.choice([*VERBS], rng.integers(1, MOST_VERBS + 1))))
        for verb in verbs:
            VERBS[verb](client, phantom, rng)
        end = str(rng.choice([*ENDS], p=[*ENDS.values()]))
        if end == RELEASED:
            client.ask("POST", "/release")
        elif end == IN_A_PROMPT:
            point = {"coordinates": _place(phantom, rng), "include_interaction": True}
            client.vanish("/add_point_interaction", json.dumps(point).encode())
        elif end == IN_AN_UPLOAD:
            client.vanish("/set_image", image, share=rng.random())
    finally:
        client.close()
    return Lived(took_s, end, verbs)


def _place(phantom: Phantom, rng: np.random.Generator) -> list[int]:
    """A voxel: of an object three times of four, else anywhere."""
    places = np.argwhere(phantom.labels > 0)
    if len(places) and rng.random() < 0.75:
        return [int(at) for at in places[rng.integers(len(places))]]
    return [int(rng.integers(side)) for side in phantom.labels.shape]


def _point(client: Client, phantom: Phantom, rng: np.random.Generator) -> None:
    place, is_positive = _place(phantom, rng), bool(rng.random() < 0.6)
    client.say("/add_point_interaction", coordinates=place, include_interaction=is_positive)


def _box(client: Client, phantom: Phantom, rng: np.random.Generator) -> None:
    client.say("/add_bbox_interaction", bbox_coords=_crop(phantom, rng))


def _drawn(path: str) -> Callable[[Client, Phantom, np.random.Generator], None]:
    def draw(client: Client, phantom: Phantom, rng: np.random.Generator) -> None:
        crop = _crop(phantom, rng)
        size = [stop - start for start, stop in crop]
        drawn = np.zeros(size, np.uint8)
        thin = size.index(1)
        lines = [slice(None)] * 3
        lines[(thin + 1) % 3] = slice(size[(thin + 1) % 3] // 2, size[(thin + 1) % 3] // 2 + 1)
        drawn[tuple(lines) if "scribble" in path else ...] = 1
        meta = {"include_interaction": bool(rng.random() < 0.6), "interaction_bbox": crop}
        client.ask("POST", path, _pack(drawn), meta)

    return draw


def _seed(client: Client, phantom: Phantom, rng: np.random.Generator) -> None:
    mask = (phantom.labels == rng.integers(1, 4)).astype(np.uint8)
    meta = {"run_prediction": bool(rng.random() < 0.5)}
    client.ask("POST", "/add_initial_seg_interaction", _pack(mask), meta)


def _plain(path: str) -> Callable[[Client, Phantom, np.random.Generator], None]:
    return lambda client, phantom, rng: _said(client, path)


def _said(client: Client, path: str) -> None:
    client.say(path)


VERBS: dict[str, Callable[[Client, Phantom, np.random.Generator], None]] = {
    "point": _point,
    "box": _box,
    "scribble": _drawn("/add_scribble_interaction"),
    "lasso": _drawn("/add_lasso_interaction"),
    "seed": _seed,
    "undo": _plain("/undo"),
    "predict": _plain("/predict"),
    "reset": _plain("/reset_interactions"),
}
"""Name of what a session may ask for to what asks for it."""


def _crop(phantom: Phantom, rng: np.random.Generator) -> list[list[int]]:
    """A box (z, y, x) of one slice in any of the three planes, about a voxel."""
    place, thin = _place(phantom, rng), int(rng.choice(3, p=PLANES))
    box = []
    for axis, (at, side) in enumerate(zip(place, phantom.labels.shape, strict=True)):
        half = 0 if axis == thin else int(rng.integers(2, 12))
        box.append([max(0, at - half), min(side, at + half + 1)])
    return box


def _pack(array: NDArray[Any]) -> bytes:
    from runtime.serve.nnia import pack  # needs blosc2, which help does not

    return pack(array)
