"""What is left of sessions that are over: nothing, at once, and without the collector's help.

Their voxels would wait for it otherwise, and it comes seldom: it counts objects, not bytes.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

from benchmarks.speed.soak_session import Client
from runtime.io.volumes.volume import Volume
from runtime.serve.app import Door
from runtime.serve.hosts import Hosts
from runtime.serve.lease import Lease
from runtime.serve.limits import Limits
from runtime.serve.nnia import pack
from runtime.serve.server import listen
from runtime.serve.service import Service, Shown
from runtime.serve.session import InteractiveSession
from runtime.serve.worker import Worker
from runtime.steps.encodings import Encodings
from tests.fakes import TELLING, fake_model
from tests.runtime.serve import page_client

SHAPE = (4, 9, 8)
IMAGE = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
PATIENCE_S = 30.0


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of a model that computes nothing: its port, its leases, all of them that it has granted, its pages."""
    monkeypatch.setattr("runtime.serve.server.SWEEP_S", 0.02)
    opened = Volume.from_array(IMAGE, (1.0, 1.0, 1.0))
    service = Service(
        fake_model(TELLING)[0],
        Limits(max_sessions=9),
        Door(Hosts("127.0.0.1")),
        "none",
        2**20,
        shown=Shown(opened=opened),
    )
    listener, is_up = listen("127.0.0.1", 0), threading.Event()
    running = service.server(is_up.set)
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    assert is_up.wait(PATIENCE_S)
    yield SimpleNamespace(port=listener.getsockname()[1], leases=service.leases, page=service._page)
    running.should_exit = True
    thread.join()
    service.close()


def until(is_so: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < end_s:
        time.sleep(0.01)
    return is_so()


def parts(session: InteractiveSession) -> list[ref[Any]]:
    """What holds a session's memory."""
    state = session._state
    objects = [*(state.objects or ())]
    predictors = [predictor for obj in objects for predictor in obj._predictors.values()]
    held = [session, state, state.image, *objects, *predictors]
    return [ref(part) for part in held if part is not None]


def held_by(lease: Lease) -> list[ref[Any]]:
    return [ref(lease), *parts(lease.session)]


@pytest.mark.usefixtures("uncollected")
def test_a_closed_session_leaves_nothing_to_collect() -> None:
    model = fake_model(TELLING)[0]
    encodings, worker = Encodings(model), Worker()
    session = InteractiveSession(model, encodings, worker)
    session.set_image(IMAGE[None])
    session.set_do_autozoom(False)
    session.add_bbox_interaction([[1, 2], [2, 7], [2, 6]], True)
    session.add_point_interaction((2, 4, 4), True)
    session.undo()
    session.add_object()
    session.select_object(2)
    session.add_bbox_interaction([[1, 4], [3, 4], [2, 6]], True)
    session.remove_object(1)
    left = parts(session)
    assert len(left) >= 5
    session.close()
    del session
    assert worker.call("after it", lambda: True)
    assert [part() for part in left if part() is not None] == []
    assert not encodings._users
    worker.close()


@pytest.mark.parametrize("listens", [False, True])
def test_a_dropped_session_ends_its_thread_and_leaves_nothing(listens: bool) -> None:
    model = fake_model(TELLING)[0]
    encodings = Encodings(model)
    session = InteractiveSession(model, encodings)
    if listens:  # and holds the session, as whoever listens may
        session.on_slices = lambda object_id, box, held=session: None  # type: ignore[misc]
    session.set_image(IMAGE[None])
    session.add_bbox_interaction([[1, 2], [2, 7], [2, 6]], True)
    left, thread = parts(session), session._state.worker._thread
    assert thread is not None and thread.is_alive() and len(encodings._users) == 1
    del session
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert until(lambda: gc.collect() >= 0 and not any(part() for part in left))
    assert not encodings._users


def test_a_worker_that_sessions_share_outlives_them() -> None:
    model, worker = fake_model(TELLING)[0], Worker()
    session = InteractiveSession(model, worker=worker)
    session.set_image(IMAGE[None])
    del session
    gc.collect()
    assert worker.call("after it", lambda: True)
    worker.close()


def silent(client: Client) -> None:
    """Say no more."""


def in_a_prompt(client: Client) -> None:
    client.vanish(
        "/add_point_interaction", b'{"coordinates": [2, 4, 4], "include_interaction": true}'
    )


def in_an_upload(client: Client) -> None:
    client.vanish("/set_image", pack(IMAGE[None]), share=0.6)


@pytest.mark.usefixtures("uncollected")
def test_sessions_that_viewers_have_abandoned_leave_nothing(server: Any) -> None:
    def abandon(leave: Callable[[Client], None]) -> None:
        client = Client(server.port)
        client.ask("POST", "/claim")  # of which nothing is used
        client.token = server.leases.grant("nninteractive").token
        client.ask("POST", "/set_image", pack(IMAGE[None]))
        client.say("/add_bbox_interaction", bbox_coords=[[1, 2], [2, 7], [2, 6]])
        leave(client)
        client.close()

    for leave in (silent, in_a_prompt, in_an_upload):
        abandon(leave)
    assert_nothing_is_left_of(server)


@pytest.mark.usefixtures("uncollected")
def test_a_page_whose_browser_was_closed_leaves_nothing(server: Any) -> None:
    client = page_client.Client(server.port)
    client.claim()
    stream = client.listen()
    client.ask("POST", "/api/objects/1/point", {"kji": [2, 4, 4], "positive": True})
    stream.until("done")
    pages = [ref(page) for page in server.page._pages.values()]
    stream.close()
    client.ask("POST", "/api/objects/1/point", {"kji": [1, 3, 4], "positive": True})
    assert_nothing_is_left_of(server)
    assert len(pages) == 1 and until(lambda: pages[0]() is None)
    assert not server.page._pages


def assert_nothing_is_left_of(server: Any) -> None:
    """Have the time of all sessions be over, and look for them."""
    assert until(lambda: not any(lease.pending for lease in server.leases._leases.values()))
    left = [part for lease in server.leases._leases.values() for part in held_by(lease)]
    assert len(left) > 5
    server.leases._clock = lambda: time.monotonic() + 1e6
    assert until(lambda: not any(part() for part in left)), [part() for part in left]
    assert len(server.leases) == server.leases.held_bytes == 0
