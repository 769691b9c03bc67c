"""What no viewer sends, over sockets of our own."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array

from runtime.errors import SessionBusy
from runtime.serve.guard import Guard, shown_key
from runtime.serve.hosts import Hosts, host_of, is_loopback
from runtime.serve.limits import Limits
from tests.runtime.serve.fakes import FakeSession, Running, answer_to, running

KEY = "0123456789abcdefghij"
SHORT = Limits(
    header_s=0.3, body_s=0.3, slowest_bytes_per_s=10**9, keep_alive_s=1, max_connections=20
)


def post(path: str, token: str, length: int) -> bytes:
    """The head of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"X-Lease-Token: {token}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(key=KEY, allowed=("proxy.example",)) as found:
        yield found


@pytest.mark.parametrize(
    "name",
    ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "snap.localhost", "localhost."],
)
@pytest.mark.parametrize("port", ["", ":1527", ":9000"])
def test_loopbacks_names_are_answered_to(server: Running, name: str, port: str) -> None:
    assert server.ask("GET", "/healthz", Host=name + port)[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "10.0.0.1",
        "",
        "[::1",
        "127.0.0.1@evil",
        "0x7f000001",
        "a:b:c",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(server: Running, name: str) -> None:
    for method, path in (("GET", "/healthz"), ("POST", "/claim"), ("GET", "/"), ("GET", "/status")):
        status, _, body = server.ask(method, path, Host=name)
        assert status == 421 and "--allow-host" in json.loads(body)["detail"]


def test_further_names_may_be_allowed(locked: Running) -> None:
    assert locked.ask("GET", "/healthz", Host="proxy.example:80")[0] == 200
    assert locked.ask("GET", "/healthz", Host="other.example")[0] == 421


def test_servers_that_others_reach_answer_to_any_address_and_their_own_name() -> None:
    hosts = Hosts("0.0.0.0")
    for name in ("10.1.2.3", "fe80::1", "localhost", socket.gethostname().lower()):
        assert hosts.answers_to(name)
    assert not hosts.answers_to("evil.example")
    assert host_of("[FE80::1]:1527") == "fe80::1" and host_of("Host:80") == "host"
    assert is_loopback("::1") and not is_loopback("0.0.0.0")


CROSS = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "file://"},
    {"Origin": "http://127.0.0.1:9"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "same-origin", "Origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", CROSS)
def test_pages_from_elsewhere_are_refused(server: Running, headers: dict[str, str]) -> None:
    before = len(server.sessions)
    for method, path in (("POST", "/claim"), ("GET", "/start_session"), ("OPTIONS", "/claim")):
        status, found, _ = server.ask(method, path, **headers)
        assert status == 403 and "access-control-allow-origin" not in found
    assert len(server.sessions) == before


def test_our_own_page_and_links_to_it_are_served(server: Running) -> None:
    own = {"Origin": server.url, "Sec_Fetch_Site": "same-origin"}
    token = server.claim(**own)
    assert server.ask("POST", "/release", X_Lease_Token=token, **own)[0] == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert server.ask("GET", "/", **link)[0] == 200
    assert server.ask("GET", "/start_session", **link)[0] == 403
    assert server.ask("POST", "/claim", **link)[0] == 403


def test_everything_but_the_page_needs_the_key(locked: Running) -> None:
    for path in ("/", "/healthz", "/page/none.js"):
        assert locked.ask("GET", path)[0] in (200, 404)
    for method, path in (
        ("POST", "/claim"),
        ("GET", "/status"),
        ("GET", "/start_session"),
        ("GET", "/capabilities"),
        ("GET", "/api/volume"),
        ("GET", "/none"),
        ("GET", "/page"),
        ("GET", f"/status?key={KEY}"),
    ):
        status, headers, _ = locked.ask(method, path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer"), path
    assert locked.ask("GET", "/none", Authorization=f"Bearer {KEY}")[0] == 404


def test_a_lease_without_the_key_is_worth_nothing(locked: Running) -> None:
    token = locked.claim(Authorization=f"Bearer {KEY}")
    assert locked.ask("POST", "/heartbeat", X_Lease_Token=token)[0] == 401
    wrong = {"Authorization": f"Bearer {KEY}, Bearer {KEY}"}
    assert locked.ask("POST", "/heartbeat", X_Lease_Token=token, **wrong)[0] == 401
    right = {"Authorization": f"bearer  {KEY} "}
    assert locked.ask("POST", "/heartbeat", X_Lease_Token=token, **right)[0] == 200
    locked.leases.release(token)
    assert locked.ask("POST", "/heartbeat", X_Lease_Token=token, **right)[0] == 410


def test_keys_that_are_guessed_are_told_of_and_not_each(caplog: pytest.LogCaptureFixture) -> None:
    with running(key=KEY) as server:
        server.ask("GET", "/status")  # without a key
        for number in range(12):
            wrong = {"Authorization": f"Bearer guess-{number}"}
            assert server.ask("GET", "/status", **wrong)[0] == 401
    said = [record.getMessage() for record in caplog.records if "wrong keys" in record.message]
    assert [text.split(",")[0] for text in said] == [
        "wrong keys shown so far: 1",
        "wrong keys shown so far: 10",
    ]
    assert all("127.0.0.1" in text and "guess" not in text for text in said)


@pytest.mark.parametrize("name", ["Authorization", "X-Lease-Token", "Origin", "X-Meta"])
def test_headers_that_decide_are_there_once(locked: Running, name: str) -> None:
    right = f"{name}: Bearer {KEY}\r\n" if name == "Authorization" else f"{name}: x\r\n"
    head = f"GET /status HTTP/1.1\r\nHost: localhost\r\n{right}{name}: y\r\n\r\n"
    with locked.connect() as connection:
        assert answer_to(connection, head.encode())[9:12] == b"400"


def test_keys_are_read_from_headers_alone() -> None:
    basic = base64.b64encode(f"snap:{KEY}".encode()).decode()
    assert shown_key(f"Basic {basic}") == shown_key(f"Bearer {KEY}") == KEY
    for header in (
        "",
        KEY,
        "Basic",
        "Basic !!!",
        "Basic " + basic[:-3],
        "Digest " + basic,
        "Basic /w==",
    ):
        assert shown_key(header) != KEY
    assert Guard(None, Hosts("::1"), None, Limits())._digest is None  # type: ignore[arg-type]


def test_neither_keys_nor_tokens_nor_contents_are_logged(
    locked: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {KEY}"}
    token = locked.claim(**headers)
    sid = json.loads(locked.ask("GET", "/start_session?name=DOE", **headers)[2])["session_id"]
    locked.ask("GET", f"/reset_interactions/{sid}?name=DOE", **headers)
    locked.ask("GET", f"/none/{sid}?name=DOE", **headers)
    bad = b'{"coordinates":["DOE"]}'
    locked.ask("POST", "/add_point_interaction", bad, X_Lease_Token=token, **headers)
    locked.ask("POST", "/upload_raw/DOE?filename=DOE.nii.gz", b"DOE", **headers)
    said = [record.getMessage() for record in caplog.records if record.name == "runtime.serve"]
    assert any(text.startswith("/add_point_interaction: InputError in") for text in said)
    for secret in (KEY, token, sid, "DOE"):
        assert not [text for text in said if secret in text]
    for each in (token, sid):
        locked.leases.release(each)


LENGTHS = [b"-1", b"1e3", b"0x10", b"99999999999999999999", b"1 1", b"\xb2", b"1, 2", b"+5"]


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_that_are_none_are_refused(server: Running, length: bytes) -> None:
    request = b"POST /claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n"
    with server.connect() as connection:
        assert answer_to(connection, request)[9:12] in (b"400", b"413")


def test_long_text_is_refused_before_it_comes_and_when_it_comes_in_pieces(server: Running) -> None:
    token = server.claim()
    status, _, _ = server.ask("POST", "/undo", b" " * (64 * 1024 + 1), X_Lease_Token=token)
    assert status == 413
    head = f"POST /undo HTTP/1.1\r\nHost: localhost\r\nX-Lease-Token: {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"8000\r\n" + bytes(0x8000) + b"\r\n" for _ in range(4)) + b"0\r\n\r\n"
    with server.connect() as connection:
        assert answer_to(connection, head.encode() + pieces)[9:12] == b"413"
    with server.connect() as connection:
        short = b"2\r\n{}\r\n0\r\n\r\n"
        assert answer_to(connection, head.encode() + short)[9:12] == b"200"
    assert (
        server.ask("POST", "/undo", b"{}", X_Lease_Token=token, Content_Encoding="gzip")[0] == 415
    )
    server.leases.release(token)


def test_two_words_about_one_length_are_refused(server: Running) -> None:
    head = b"POST /claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as connection:  # a proxy may believe the one, and this server the other
        assert answer_to(connection, head + b"2\r\n{}\r\n0\r\n\r\n")[9:12] == b"400"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PUT", "get"])
def test_methods_that_nobody_needs(server: Running, method: str) -> None:
    for path in ("/", "/undo", "/healthz"):
        status, headers, body = server.ask(method, path, X_Secret="told to nobody")
        assert status == 405 and headers["allow"] and b"told to nobody" not in body
        assert not [name for name in headers if name.startswith("access-control")]


def test_an_upgrade_is_not_taken(server: Running) -> None:
    for kind in ("websocket", "h2c"):
        more = {"Connection": "Upgrade", "Upgrade": kind, "Sec_WebSocket_Version": "13"}
        assert server.ask("GET", "/healthz", Sec_WebSocket_Key="eA==", **more)[0] == 200


def test_a_body_that_is_refused_does_not_spoil_the_next_request(server: Running) -> None:
    request = b"POST /undo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + bytes(
        60000
    )
    with server.connect() as connection:
        assert answer_to(connection, request)[9:12] == b"410"
        again = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert answer_to(connection, again).endswith(b'{"ok":true}')


def is_closed(connection: socket.socket, within_s: float = 5.0) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
        b"POST /undo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx",
    ],
)
def test_half_of_a_request_is_not_waited_for(sent: bytes) -> None:
    with running(SHORT) as server, server.connect() as connection:
        connection.sendall(sent)
        assert is_closed(connection)
        assert server.ask("GET", "/healthz")[0] == 200


def test_heads_that_trickle_have_no_more_time_than_others() -> None:
    with running(SHORT) as server, server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"X: y\r\n")
                time.sleep(0.02)
        assert is_closed(connection)


def test_bodies_that_trickle_are_refused_and_change_nothing() -> None:
    with running(SHORT) as server:
        token = server.claim()
        head = post("/set_image", token, 100_000)
        with server.connect() as connection:
            found = answer_to(connection, head + b"NNIA")
            assert found[9:12] == b"408"
            assert is_closed(connection)
        assert not server.sessions[0].calls and server.leases.held_bytes == 0
        assert server.ask("POST", "/heartbeat", X_Lease_Token=token)[0] == 200


def test_a_client_that_reads_nothing_is_left_behind() -> None:
    with running(Limits(write_s=0.3, max_image_bytes=2**28)) as server:
        token = server.claim()
        shape = (1, 64, 512, 512)
        image = np.zeros(shape, np.uint8)
        server.ask("POST", "/set_image", pack_array(image), X_Lease_Token=token)
        noise = np.random.default_rng(0).integers(0, 255, shape[1:]).astype(np.uint8)
        server.sessions[0].target_buffer[...] = noise
        server.sessions[0]._before.append(noise)
        connection = server.connect()
        connection.sendall(post("/undo", token, 2) + b"{}")
        deadline = time.monotonic() + 30
        while server.connections or not server.sessions[0].ran_prediction:
            assert time.monotonic() < deadline, "nobody left it behind"
            time.sleep(0.01)
        received = 0
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(2**20):
                received += len(piece)
        assert received < noise.nbytes
        connection.close()


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + 3000 * b"X: yyyyyyyy\r\n" + b"\r\n",
    b"GET /" + 100_000 * b"a" + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /claim HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /undo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    bytes(range(256)) * 40,
]


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_what_is_no_request_is_no_harm(
    server: Running, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with server.connect() as connection:
        found = answer_to(connection, GARBAGE[number])
    assert not found or found[9:10] == b"4" or b"410" in found
    assert server.ask("GET", "/healthz")[0] == 200
    assert "Traceback" not in caplog.text


def test_requests_at_random_never_fail_inside(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    generator = random.Random(11)
    paths = [
        "/claim",
        "/set_image",
        "/add_point_interaction",
        "/upload_raw/x",
        "/status",
        "/undo",
        "/heartbeat",
        "/../x",
        "/%00",
        "/v2/models",
    ]
    names = [
        "Content-Length",
        "X-Meta",
        "X-Lease-Token",
        "Expect",
        "Connection",
        "Origin",
        "Authorization",
        "Content-Type",
        "Upgrade",
    ]
    values = [
        "0",
        "5",
        "{}",
        "[",
        "100-continue",
        "close",
        "upgrade, keep-alive",
        "h2c",
        "websocket",
        "é",
        "\udc00",
        "x" * 500,
        "NaN",
        "multipart/form-data; boundary=x",
    ]
    for _ in range(150):
        lines = [
            f"{generator.choice(['GET', 'POST', 'PUT', 'HEAD', 'BREW'])} {generator.choice(paths)} HTTP/1.1",
            "Host: localhost",
            "Connection: close",
        ]
        lines += [f"{generator.choice(names)}: {generator.choice(values)}" for _ in range(3)]
        request = "\r\n".join([*lines, "", "12345"]).encode("utf-8", "surrogatepass")
        with server.connect() as connection:
            found = answer_to(connection, request)
        assert not found or int(found[9:12]) in (
            100,
            200,
            400,
            401,
            403,
            404,
            405,
            408,
            410,
            413,
            415,
            503,
        ), request
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    for lease in list(server.leases._leases.values()):
        server.leases.release(lease.token)


def test_two_hundred_connections_at_once_are_answered(server: Running) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(200)]
        for _ in range(2):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                assert answer_to(connection, b"").endswith(b'{"ok":true}')


def test_who_waits_longest_goes_where_there_are_too_many(server: Running) -> None:
    with running(SHORT) as small, contextlib.ExitStack() as stack:
        held = [stack.enter_context(small.connect()) for _ in range(60)]
        assert small.ask("GET", "/healthz")[0] == 200
        assert is_closed(held[0]) and is_closed(held[30])


def test_where_all_connections_work_another_is_told() -> None:
    limits = Limits(max_connections=3, max_pending=9)
    with running(limits, make_session=lambda: FakeSession(30.0)) as server:
        token = server.claim()
        server.ask(
            "POST", "/set_image", pack_array(np.zeros((1, 2, 9, 9), np.uint8)), X_Lease_Token=token
        )
        body = b'{"coordinates":[1,1,1]}'
        request = post("/add_point_interaction", token, len(body)) + body
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(server.connect()).sendall(request)
            assert server.sessions[0].begun.wait(10)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                # One that comes before the third request is not told, and waits in vain.
                with server.connect() as connection, contextlib.suppress(TimeoutError):
                    connection.settimeout(1)
                    if b"503" in connection.recv(4096):
                        break
            else:
                pytest.fail("no connection was refused")
            server.sessions[0].seconds = 0
            server.sessions[0].cancel()


def test_one_session_cannot_take_all_threads() -> None:
    limits = Limits(max_pending=2)
    with running(limits, make_session=lambda: FakeSession(30.0)) as server:
        token = server.claim()
        session = server.sessions[0]
        image = pack_array(np.zeros((1, 2, 9, 9), np.uint8))
        server.ask("POST", "/set_image", image, X_Lease_Token=token)

        def point() -> int:
            return server.ask(
                "POST", "/add_point_interaction", b'{"coordinates":[1,1,1]}', X_Lease_Token=token
            )[0]

        with ThreadPoolExecutor(6) as threads:
            asked = [threads.submit(point) for _ in range(6)]
            assert session.begun.wait(10)
            while sum(each.done() for each in asked) < 4:
                time.sleep(0.01)
            session.seconds = 0
            session.cancel()
        assert sorted(each.result() for each in asked) == [200, 200, 429, 429, 429, 429]


class Busy(FakeSession):
    def undo(self) -> None:
        raise SessionBusy("the network had too much to do; try again later")


def test_who_found_the_network_busy_is_asked_to_wait() -> None:
    with running(make_session=Busy) as server:
        status, headers, body = server.ask("POST", "/undo", b"{}", X_Lease_Token=server.claim())
        assert status == 429 and b"try again later" in body  # no fault, and no full server
        assert headers["retry-after"] == "10"


def test_a_bomb_of_two_kilobytes_is_refused(server: Running) -> None:
    token = server.claim()
    shape = struct.pack("<4q", 1, 2**12, 2**12, 2**10)
    bomb = (
        b"NNIA\x01\x01\x04\x05uint8"
        + shape
        + struct.pack("<I", 1)
        + struct.pack("<QQ", 2**34, 32)
        + bytes(32)
    )
    assert server.ask("POST", "/set_image", bomb.ljust(2000, b"\0"), X_Lease_Token=token)[0] == 413
    assert server.leases.held_bytes == 0
    server.leases.release(token)
