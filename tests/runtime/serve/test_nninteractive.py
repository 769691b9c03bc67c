"""nnInteractive's protocol as its own client speaks it, in the orders of calls that 3D Slicer and napari make."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote.remote_session import (
    ServerAtCapacityError,
    SessionExpiredError,
)
from nnInteractive.inference.remote.remote_session import (
    nnInteractiveRemoteInferenceSession as Client,
)
from nnInteractive.inference.remote.serialization import pack_array

from runtime.serve.limits import Limits
from runtime.serve.nninteractive import DRAWINGS, LEASE, META, VERBS
from tests.runtime.serve.fakes import CAPABILITIES, FakeSession, Running, running

# A client that was refused leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IMAGE = np.random.default_rng(3).integers(-1000, 1000, (1, 6, 40, 50)).astype(np.int16)
SHAPE = IMAGE.shape[1:]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url) as found:
        yield found


@pytest.fixture
def session(client: Client, server: Running) -> FakeSession:
    return server.sessions[-1]


def test_what_slicer_does(client: Client, session: FakeSession) -> None:
    assert client.ping()
    assert client.supported_interactions == CAPABILITIES["supported_interactions"]
    assert client.preferred_scribble_thickness == [1, 1, 1]
    assert client.license == "none" and client.supports_undo
    client.set_image(IMAGE, {"spacing": np.array([3.0, 0.5, 0.5])})
    assert client.original_image_shape == IMAGE.shape
    _, image, properties = session.calls[0]
    np.testing.assert_array_equal(image, IMAGE)
    assert image.dtype == np.int16 and properties == {"spacing": [3.0, 0.5, 0.5]}
    mask = np.zeros(SHAPE, np.uint8)
    client.set_target_buffer(mask)
    client.set_do_autozoom(False)
    assert session.calls[1:] == [
        ("set_target_buffer", SHAPE, "uint8"),
        ("set_do_autozoom", False),
    ]
    assert client.add_point_interaction((2, 10, 11), True) == [[2, 3], [10, 11], [11, 12]]
    assert mask.sum() == 1 and mask[2, 10, 11] == 1
    scribble = np.zeros((1, 4, 5), np.uint8)
    scribble[0, 1:3, 1:4] = 1
    box = [[3, 4], [5, 9], [6, 11]]
    client.add_scribble_interaction(scribble, True, interaction_bbox=box)
    assert mask.sum() == 7
    np.testing.assert_array_equal(session.calls[-1][1], scribble)
    assert session.calls[-1][2:] == (True, True, box)
    client.add_lasso_interaction(scribble, False, interaction_bbox=box)
    assert mask.sum() == 1 and session.calls[-1][0] == "lasso"
    assert client.undo() and mask.sum() == 7
    # Another segment: reset, and its mask as a seed.
    client.reset_interactions()
    assert not mask.any() and not session.target_buffer.any()
    seed = np.zeros(SHAPE, np.uint8)
    seed[1:3, 2:9, 3:9] = 1
    client.add_initial_seg_interaction(seed, run_prediction=False)
    assert session.calls[-1][0] == "seed" and session.calls[-1][2] is False
    np.testing.assert_array_equal(session.target_buffer, seed)
    np.testing.assert_array_equal(mask, seed)
    assert not client.undo()


def test_what_napari_does(client: Client, session: FakeSession) -> None:
    image = IMAGE[:, :1].astype(np.float32)  # a picture
    client.set_image(image, {"spacing": [1.0, 1.0, 1.0]})
    mask = np.zeros(image.shape[1:], np.uint8)
    client.set_target_buffer(mask)
    client.set_do_autozoom(True)
    client.add_bbox_interaction([[-0.4, 0.6], [3.2, 20.4], [4.4, 30.6]], True, run_prediction=False)
    assert session.calls[-1][1] == [[-0.4, 0.6], [3.2, 20.4], [4.4, 30.6]]
    assert not mask.any()
    assert client._predict() is None
    assert client._predict(force_full_refine=True) is None
    assert session.calls[-2:] == [("predict", False), ("predict", True)]
    client.add_bbox_interaction([[0, 1], [3.2, 20.4], [4.4, 30.6]], True)
    assert mask.sum() == 17 * 27
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        client.add_point_interaction((0.0, 40.0, 3.0), True)
    assert mask.sum() == 17 * 27


def test_bool_and_wide_buffers_are_filled_too(client: Client) -> None:
    client.set_image(IMAGE)
    for dtype in (bool, np.int32, np.uint64):
        mask = np.zeros(SHAPE, dtype)
        client.set_target_buffer(mask)
        client.add_bbox_interaction([[0, 6], [1, 3], [1, 4]], True)
        assert mask.sum() == 36


def test_two_clients_have_two_sessions(server: Running) -> None:
    with Client(server.url) as one, Client(server.url) as other:
        sessions = server.sessions[-2:]
        masks = [np.zeros(SHAPE, np.uint8) for _ in range(2)]
        for client, mask in zip((one, other), masks, strict=True):
            client.set_image(IMAGE)
            client.set_target_buffer(mask)
        one.add_point_interaction((1, 1, 1), True)
        other.add_point_interaction((2, 2, 2), True)
        assert [np.argwhere(mask).tolist() for mask in masks] == [[[1, 1, 1]], [[2, 2, 2]]]
        assert sessions[0] is not sessions[1]


def test_signs_of_life_are_answered_while_a_prediction_runs() -> None:
    with running(make_session=lambda: FakeSession(30.0)) as server, Client(server.url) as client:
        session = server.sessions[0]
        client.set_image(IMAGE)
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        thread = threading.Thread(target=client.add_point_interaction, args=((1, 1, 1), True))
        thread.start()
        assert session.begun.wait(10)
        for _ in range(5):
            assert client.heartbeat() > 0
            assert client.ping()
            assert client.lease_status()["remaining_seconds"] > 0
        assert thread.is_alive()
        session.cancel()
        thread.join()
        assert session.target_buffer.sum() == 1


def test_what_a_client_that_went_away_asked_for_is_cancelled() -> None:
    with running(make_session=lambda: FakeSession(30.0)) as server:
        token = server.claim()
        session = server.sessions[0]
        with httpx.Client(base_url=server.url, headers={LEASE: token}) as gone:
            gone.post("/set_image", content=pack_array(IMAGE), headers={META: "{}"})
            with pytest.raises(httpx.ReadTimeout):
                content = b'{"coordinates":[1,1,1],"include_interaction":true}'
                gone.post("/add_point_interaction", content=content, timeout=0.5)
        assert session.was_cancelled.wait(10)
        status, headers, _ = server.ask("POST", "/predict", b"{}", X_Lease_Token=token)
        assert status == 200 and json.loads(headers["x-meta"])["ran_prediction"]


def test_a_session_that_is_over_is_gone_and_says_so(server: Running) -> None:
    client = Client(server.url)
    client.set_image(IMAGE)
    server.leases.release(client._lease_token)
    for call in (client.heartbeat, client.lease_status, client.undo):
        with pytest.raises(SessionExpiredError, match="connect again"):
            call()
    large = np.random.default_rng(0).integers(-(2**15), 2**15, (1, 40, 512, 512)).astype(np.int16)
    with pytest.raises(SessionExpiredError):  # 20 MB that nobody reads, and the status is seen
        client.set_image(large)
    client.close()


def test_idle_and_silent_sessions_end_by_themselves() -> None:
    with running(Limits(idle_s=0.2, silent_s=60.0)) as server:
        client = Client(server.url)
        assert client.idle_timeout_seconds == 0.2 and client.liveness_timeout_seconds == 60.0
        time.sleep(0.3)
        with pytest.raises(SessionExpiredError):
            client.heartbeat()
        client.close()


def test_a_full_server_says_so() -> None:
    with running(Limits(max_sessions=1)) as server, Client(server.url):
        with pytest.raises(ServerAtCapacityError, match="--max-sessions"):
            Client(server.url)
        status, headers, _ = server.ask("POST", "/claim")
        assert (status, headers["retry-after"]) == (503, "10")


def test_a_released_session_makes_room() -> None:
    with running(Limits(max_sessions=1)) as server:
        for _ in range(3):
            Client(server.url).close()
        token = server.claim()
        for _ in range(2):
            status, _, body = server.ask("POST", "/release", X_Lease_Token=token)
            assert (status, json.loads(body)) == (200, {"released": True})


def test_the_key_is_asked_for_by_name() -> None:
    key = "0123456789abcdefghij"
    with running(key=key) as server:
        with Client(server.url, api_key=key) as client:
            client.set_image(IMAGE)
            assert client.ping()
        for wrong in (None, "x", key[:-1], key + "0", key.upper()):
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                Client(server.url, api_key=wrong)
        with Client(f"http://snap:{key}@{server.host}:{server.port}") as client:
            client.set_image(IMAGE)


BAD_JSON = {
    "no json": b"{",
    "another type": b"[]",
    "NaN": b'{"coordinates":[NaN,1,1]}',
    "infinity": b'{"coordinates":[1e999,1,1]}',
    "a name twice": b'{"coordinates":[1,1,1],"coordinates":[1,1,2]}',
    "deep": b'{"coordinates":' + 20000 * b"[" + 20000 * b"]" + b"}",
    "long numbers": b'{"coordinates":[' + 10000 * b"9" + b",1,1]}",
    "two coordinates": b'{"coordinates":[1,1]}',
    "text": b'{"coordinates":["1","1","1"]}',
    "bools": b'{"coordinates":[true,true,true]}',
    "nothing": b"",
    "no flag": b'{"coordinates":[1,1,1],"include_interaction":1}',
    "no utf-8": b'{"coordinates":[1,1,1],"x":"\xff"}',
    "far away": b'{"coordinates":[1e300,1,1]}',
}


@pytest.mark.parametrize("what", BAD_JSON)
def test_bad_json_is_refused_and_changes_nothing(server: Running, what: str) -> None:
    token = server.claim()
    session = server.sessions[-1]
    server.ask("POST", "/set_image", pack_array(IMAGE), X_Lease_Token=token)
    status, _, body = server.ask(
        "POST", "/add_point_interaction", BAD_JSON[what], X_Lease_Token=token
    )
    assert status == 400 and json.loads(body)["detail"]
    assert [call[0] for call in session.calls] == ["set_image"]
    server.leases.release(token)


def test_bad_images_buffers_and_drawings_are_refused(server: Running) -> None:
    token = server.claim()

    def status(path: str, body: bytes, meta: str = "{}") -> int:
        return server.ask("POST", path, body, X_Lease_Token=token, X_Meta=meta)[0]

    assert status("/add_point_interaction", b'{"coordinates":[1,1,1]}') == 400  # no image yet
    assert status("/set_image", b"x") == 400
    assert status("/set_image", pack_array(IMAGE[0])) == 400
    assert status("/set_image", pack_array(np.concatenate([IMAGE, IMAGE]))) == 400
    assert status("/set_image", pack_array(IMAGE), '{"image_properties":{"spacing":[NaN]}}') == 400
    assert status("/set_image", pack_array(IMAGE), "[" * 9000) == 400
    assert status("/set_image", pack_array(IMAGE)) == 200
    assert status("/set_target_buffer", b'{"shape":[1,1],"dtype":"uint8"}') == 400
    assert status("/set_target_buffer", b'{"shape":[1,1,1],"dtype":"float32"}') == 400
    assert status("/set_target_buffer", b'{"shape":[1,1,1],"dtype":"object"}') == 400
    assert status("/set_target_buffer", b'{"shape":[99999,99999,99999],"dtype":"uint8"}') == 413
    assert status("/add_scribble_interaction", pack_array(IMAGE)) == 400
    bad_box = '{"interaction_bbox":[[0,1],[0,1]]}'
    assert status("/add_scribble_interaction", pack_array(IMAGE[0]), bad_box) == 400
    server.leases.release(token)


def test_images_that_are_too_large_are_refused_before_they_are_read() -> None:
    with running(Limits(max_image_bytes=2**20, max_volume_bytes=5 * 2**19)) as server:
        token = server.claim()
        empty = pack_array(np.zeros((1, 2, 1024, 1024), np.uint8))
        status, _, body = server.ask("POST", "/set_image", empty, X_Lease_Token=token)
        assert status == 413 and b"2097152" in body
        status, _, _ = server.ask(
            "POST", "/set_image", b"", X_Lease_Token=token, Content_Length=str(2**40)
        )
        assert status == 413
        half = pack_array(np.zeros((1, 1, 1024, 1023), np.uint8))
        for expected in (200, 200):  # the same image again takes the place of the first
            status, _, body = server.ask("POST", "/set_image", half, X_Lease_Token=token)
            assert status == expected, body
        other = server.claim()
        status, _, body = server.ask("POST", "/set_image", half, X_Lease_Token=other)
        assert status == 200, body  # and the session that was there first has ended
        assert server.ask("POST", "/heartbeat", X_Lease_Token=token)[0] == 410


@pytest.mark.parametrize(
    "path", [*VERBS, *DRAWINGS, "/set_image", "/set_target_buffer", "/heartbeat"]
)
def test_every_path_asks_for_a_lease_and_a_post(server: Running, path: str) -> None:
    assert server.ask("POST", path, b"{}")[0] == 410
    assert server.ask("POST", path, b"{}", X_Lease_Token="x")[0] == 410
    status, headers, _ = server.ask("GET", path)
    assert (status, headers["allow"]) == (405, "POST")


def test_what_is_not_there_says_what_is(server: Running) -> None:
    for path in ("/docs", "/add_point_interaction/", "/v2", "//", "/..%2f..%2fetc/passwd"):
        status, _, body = server.ask("GET", path)
        assert status == 404 and "nnInteractive" in json.loads(body)["detail"]
    status, headers, body = server.ask("GET", "/")
    assert status == 200 and b"Slicer" in body
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers
