"""A session that computes nothing, and a server around it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.serve.app import Door, application
from runtime.serve.hosts import Hosts
from runtime.serve.leases import Leases
from runtime.serve.limits import Limits
from runtime.serve.server import Server, listen
from runtime.serve.serving import Serving

Box3 = list[list[int]]
CAPABILITIES = {
    "supported_interactions": dict.fromkeys(
        ("points", "scribble", "lasso", "bbox2d", "bbox3d"), True
    ),
    "channel_mapping": {"points": [0, 1]},
    "num_interaction_channels": 2,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": False,
    "preferred_scribble_thickness": [1, 1, 1],
    "interaction_decay": 1.0,
    "inference_session_version": "1",
    "license": "none",
    "supports_undo": True,
    "do_autozoom": False,
}


class FakeSession:
    """Draws each prompt's own box, after `seconds` or until it is cancelled; writes down what it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[tuple[Any, ...]] = []
        self.ran_prediction = False
        self.is_closed, self.was_cancelled = False, threading.Event()
        self.begun = threading.Event()
        self.capabilities = CAPABILITIES
        self._buffer: NDArray[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._before: list[NDArray[Any]] = []
        self._lock = threading.Lock()

    @property
    def target_buffer(self) -> NDArray[Any]:
        if self._buffer is None:
            raise InputError("no image yet; call set_image first")
        return self._buffer

    def set_image(self, image: NDArray[Any], image_properties: dict[str, Any]) -> None:
        self.calls.append(("set_image", image, image_properties))
        self._shape = image.shape[1:]
        self._buffer = np.zeros(self._shape, np.uint8)

    def set_target_buffer(self, buffer: NDArray[Any]) -> None:
        self.calls.append(("set_target_buffer", buffer.shape, buffer.dtype.name))
        self._buffer = buffer

    def set_do_autozoom(self, do_autozoom: bool) -> None:
        self.calls.append(("set_do_autozoom", do_autozoom))

    def add_point_interaction(
        self, coordinates: list[float], positive: bool, run: bool = True
    ) -> Box3 | None:
        self.calls.append(("point", coordinates, positive, run))
        whole = [round(at) for at in coordinates]
        self.target_buffer  # noqa: B018 - no image is an error
        if not all(0 <= at < size for at, size in zip(whole, self._shape, strict=True)):
            raise InputError(f"found the point {whole}; wanted one in the image")
        return self._draw([[at, at + 1] for at in whole], positive, run)

    def add_bbox_interaction(
        self, bbox_coords: list[list[float]], positive: bool, run: bool = True
    ) -> Box3 | None:
        self.calls.append(("bbox", bbox_coords, positive, run))
        return self._draw([[round(a), round(b)] for a, b in bbox_coords], positive, run)

    def add_scribble_interaction(
        self,
        image: NDArray[Any],
        positive: bool,
        run: bool = True,
        interaction_bbox: Box3 | None = None,
    ) -> Box3 | None:
        self.calls.append(("scribble", image, positive, run, interaction_bbox))
        box = interaction_bbox or [[0, size] for size in image.shape]
        return self._draw(box, positive, run, image)

    def add_lasso_interaction(self, *args: Any, **named: Any) -> Box3 | None:
        box = self.add_scribble_interaction(*args, **named)
        self.calls.append(("lasso", *self.calls.pop()[1:]))
        return box

    def add_initial_seg_interaction(self, mask: NDArray[Any], run: bool = False) -> Box3 | None:
        self.calls.append(("seed", mask, run))
        self.target_buffer[...] = mask
        self.ran_prediction = run
        return None

    def predict(self, force_full_refine: bool = False) -> Box3 | None:
        self.calls.append(("predict", force_full_refine))
        self.ran_prediction = True
        return None

    def undo(self) -> Box3 | None:
        self.ran_prediction = bool(self._before)
        if not self._before:
            return None
        self.target_buffer[...] = self._before.pop()
        return [[0, size] for size in self._shape]

    def reset_interactions(self) -> None:
        self.calls.append(("reset",))
        self.target_buffer[...] = 0
        self._before.clear()

    def cancel(self) -> None:
        self.was_cancelled.set()

    def close(self) -> None:
        self.is_closed = True

    def _draw(self, box: Box3, value: bool, run: bool, mask: Any = True) -> Box3 | None:
        self.target_buffer  # noqa: B018 - no image is an error
        with self._lock:
            self.ran_prediction = run
            if not run:
                return None
            self.was_cancelled.clear()
            self.begun.set()
            self.was_cancelled.wait(self.seconds)
            self._before.append(self.target_buffer.copy())
            part = self.target_buffer[tuple(slice(a, b) for a, b in box)]
            part[...] = np.where(mask, value, part)
            return box


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    host: str
    port: int
    leases: Leases
    sessions: list[FakeSession] = field(default_factory=list)
    connections: Collection[object] = ()
    """That are open, as the server sees it."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=10)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in small letters and body of one request; `_` in names of headers stands for `-`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def claim(self, **headers: str) -> str:
        status, _, body = self.ask("POST", "/claim", **headers)
        assert status == 200, body
        return str(json.loads(body)["lease_token"])


@contextlib.contextmanager
def running(
    limits: Limits | None = None,
    key: str | None = None,
    make_session: Callable[[], FakeSession] = FakeSession,
    allowed: tuple[str, ...] = (),
) -> Iterator[Running]:
    """A server of fake sessions on loopback, while the block runs."""
    limits = limits or Limits()
    sessions: list[FakeSession] = []

    def made() -> Any:
        sessions.append(make_session())
        return sessions[-1]

    listener = listen("127.0.0.1", 0)
    leases = Leases(made, limits)
    pool = ThreadPoolExecutor(limits.max_sessions * limits.max_pending)
    app = application(Serving(leases, limits, pool), Door(Hosts("127.0.0.1", allowed), key))
    is_up = threading.Event()
    server = Server(app, leases, limits, is_up.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert is_up.wait(10)
        host, port = listener.getsockname()
        yield Running(host, port, leases, sessions, server.server_state.connections)
    finally:
        server.should_exit = True
        thread.join()
        pool.shutdown()


def answer_to(connection: socket.socket, request: bytes) -> bytes:
    """What comes back for some bytes, until the server closes or says nothing for a while."""
    connection.sendall(request)
    connection.settimeout(5)
    found = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while piece := connection.recv(65536):
            found += piece
            head, _, body = found.partition(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ),
                None,
            )
            if length is not None and len(body) >= length:
                break
    return found
