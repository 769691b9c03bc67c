"""The server's beginning and end: addresses, keys, what people are told, signals."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array

from runtime.commands.serve import main, parser
from runtime.errors import InputError, MissingInput, OutOfMemory, Sam2Error, SessionBusy
from runtime.files.scratch import scratch_folder
from runtime.serve.app import Door, application
from runtime.serve.banner import Address, banner, page_of
from runtime.serve.browser import show
from runtime.serve.hosts import Hosts
from runtime.serve.keys import VARIABLE, check_key, read_key
from runtime.serve.leases import AtCapacity, Leases, TooManyRequests
from runtime.serve.limits import Limits
from runtime.serve.server import CannotListen, Server, listen
from runtime.serve.serving import Serving
from runtime.serve.statuses import response_to
from tests.no_threads import no_more_threads
from tests.runtime.serve.fakes import FakeSession, running
from tests.runtime.serve.page_client import Client

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdefghij"
IMAGE = pack_array(np.zeros((1, 3, 9, 9), np.uint8))
STUBBORN = """
import sys
from tests.runtime.serve.fakes import FakeSession, running

class Stubborn(FakeSession):
    def cancel(self):
        pass

import signal, threading
from concurrent.futures import ThreadPoolExecutor
from runtime.serve.app import Door, application
from runtime.serve.hosts import Hosts
from runtime.serve.leases import AtCapacity, Leases, TooManyRequests
from runtime.serve.limits import Limits
from runtime.serve.server import Server, listen
from runtime.serve.serving import Serving

limits = Limits()
leases = Leases(lambda: Stubborn(600.0), limits)
listener = listen("127.0.0.1", 0)
app = application(Serving(leases, limits, ThreadPoolExecutor(4)), Door(Hosts("127.0.0.1")))
Server(app, leases, limits, lambda: print(listener.getsockname()[1], flush=True)).run([listener])
"""


def test_a_port_that_is_taken_is_said_so() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotListen, match=f"port {port} .* --port"):
            listen("127.0.0.1", port)
    with pytest.raises(CannotListen, match="--host"):
        listen("no.such.host.invalid", 0)
    for name in ("two..dots", 64 * "x"):  # no name of a host's at all
        with pytest.raises(CannotListen, match="--host"):
            listen(name, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_are_let_in_with_a_key_only(host: str) -> None:
    with pytest.raises(InputError, match="--key-file"):
        listen(host, 0)
    if host != "::" or socket.has_ipv6:
        try:
            listen(host, 0, has_key=True).close()
        except CannotListen:
            assert host == "::"  # no such addresses here


def test_loopback_needs_no_key() -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.7"):
        listen(host, 0).close()


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_key(None) is None
    for text in (
        f" {KEY}\n",
        f"\ufeff{KEY}\r",
    ):  # the second by $(cat FILE) of one that Notepad saved
        monkeypatch.setenv(VARIABLE, text)
        assert read_key(None) == KEY
    path = tmp_path / "key.txt"
    with pytest.raises(MissingInput, match="token_urlsafe"):
        read_key(str(path))
    path.write_text("x" + KEY + "\n")
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        read_key(str(path))
    path.chmod(0o600)
    assert read_key(str(path)) == "x" + KEY
    path.write_text(KEY + "\r\n", "utf-8-sig")  # as Notepad may save it
    assert read_key(str(path)) == KEY
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):  # as > in Windows' PowerShell does
        path.write_text(KEY + "\r\n", encoding)
        with pytest.raises(InputError, match=r"key\.txt: found text in UTF-16.*wanted UTF-8"):
            read_key(str(path))
    for bad in (
        "",
        "short",
        300 * "x",
        "0123456789abcdef ghi",
        "0123456789äbcdefghij",
        "0123456789/bcdefghij",
    ):
        with pytest.raises(InputError, match="token_urlsafe"):
            check_key(bad, "key.txt")


def test_the_banner_says_what_to_paste_where() -> None:
    told = banner(Address("127.0.0.1", 1527), None, True, "limits")
    assert told.count("http://127.0.0.1:1527") == 3 and "127.0.0.1, port 1527" in told
    assert "on this machine only" in told and "key" not in told
    shown = banner(Address("0.0.0.0", 80, ("10.0.0.1", "host")), KEY, True, "limits")
    assert f"http://10.0.0.1:80/#key={KEY}" in shown and f"snap:{KEY}@10.0.0.1" in shown
    assert "http://host:80" in shown
    hidden = banner(Address("::1", 80), KEY, False, "limits")
    assert KEY not in hidden and "http://[::1]:80/#key=KEY" in hidden


def test_a_browser_is_shown_the_page_and_nobody_else_its_key(tmp_path: Path) -> None:
    shown: list[str] = []
    show(page_of(Address("127.0.0.1", 80), None), tmp_path, shown.append)
    assert shown == ["http://127.0.0.1:80/"] and not list(tmp_path.iterdir())
    show(page_of(Address("127.0.0.1", 80), KEY), tmp_path, shown.append)
    assert KEY not in shown[1] and shown[1].startswith("file:")
    [letter] = tmp_path.iterdir()
    assert f'url=http://127.0.0.1:80/#key={KEY}"' in letter.read_text()


def test_options_that_make_no_server_are_refused() -> None:
    for words in (
        "--port 70000",
        "--port -1",
        "--max-sessions 0",
        "--max-sessions 201",
        "--max-image 10",
        "--idle-timeout 0",
        "--idle-timeout nan",
        "--idle-timeout inf",  # which JSON has no number for
        "--max-memory 0",
        "--max-memory 1K",
        "--allow-host http://proxy.example",
        "--allow-host *",
        "--allow-host ",
    ):
        with pytest.raises(InputError, match=words.split()[0]):
            main(words.split(" "))
    with pytest.raises(InputError, match="--key-file"):
        main(["--host", "0.0.0.0", "--port", "0"])
    assert "medsam2 serve" in parser().format_help()


def test_what_runs_is_answered_when_the_server_ends() -> None:
    answers: list[int] = []
    with running(make_session=lambda: FakeSession(600.0)) as server:
        token = server.claim()
        server.ask("POST", "/set_image", IMAGE, X_Lease_Token=token)

        def point() -> None:
            body = b'{"coordinates":[1,1,1]}'
            path = "/add_point_interaction"
            answers.append(server.ask("POST", path, body, X_Lease_Token=token)[0])

        thread = threading.Thread(target=point)
        thread.start()
        assert server.sessions[0].begun.wait(10)
    thread.join()
    assert answers == [200] and server.sessions[0].is_closed


SERVE = ("-m", "runtime.serve", "--threads", "1")  # others would spin beside the other tests


def started(code: list[str], **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(
        [sys.executable, *code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=variables,
    )


def test_what_cannot_be_cancelled_does_not_keep_the_server() -> None:
    with started(["-c", STUBBORN]) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        from tests.runtime.serve.fakes import Running

        server = Running("127.0.0.1", port, None)  # type: ignore[arg-type]
        token = server.claim()
        server.ask("POST", "/set_image", IMAGE, X_Lease_Token=token)
        with server.connect() as connection:
            body = b'{"coordinates":[1,1,1]}'
            head = f"POST /add_point_interaction HTTP/1.1\r\nHost: localhost\r\nX-Lease-Token: {token}\r\n"
            connection.sendall(
                head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
            while server.ask("POST", "/heartbeat", X_Lease_Token=token)[0] != 200:
                pass
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_file_under_way_goes_with_the_server_without_a_word(tmp_path: Path) -> None:
    with started([*SERVE, "--port", "0"], TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        client = Client(json.loads(process.stdout.readline())["port"])
        client.claim()
        head = b'{"files":[{"name":"scan.nii","size":4000000}]}'
        body = len(head).to_bytes(4, "little") + head + bytes(2 << 20)
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            words = "POST /api/volume HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000050\r\n"
            connection.sendall(f"{words}X-Lease-Token: {client.token}\r\n\r\n".encode() + body)
            while not list(tmp_path.glob("*/scan.nii")):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert list(tmp_path.glob("medsam2-*")) == []


def test_a_request_that_ends_with_the_server_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits()
    leases = Leases(lambda: FakeSession(0.0), limits)  # type: ignore[arg-type, return-value]
    app = application(Serving(leases, limits, ThreadPoolExecutor(1)), Door(Hosts("127.0.0.1")))
    Server(app, leases, limits)
    for error in (asyncio.CancelledError(), KeyboardInterrupt(), ValueError()):
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        ValueError
    ]


def test_a_signal_ends_a_server_that_may_have_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits()
    leases = Leases(lambda: FakeSession(0.0), limits)  # type: ignore[arg-type, return-value]
    app = application(Serving(leases, limits, ThreadPoolExecutor(1)), Door(Hosts("127.0.0.1")))
    server = Server(app, leases, limits)
    no_more_threads(monkeypatch)
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit


def test_a_client_is_told_how_to_have_more_threads() -> None:
    answer = response_to(RuntimeError("can't start new thread"))
    assert answer.status_code == 507
    assert json.loads(bytes(answer.body))["error"] == "OutOfMemory"
    assert b"no further thread" in answer.body and b"--pids-limit" in answer.body


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_fault_of_the_servers(number: int) -> None:
    full = OSError(number, "no more", "/secret/folder/scan")
    plain, said = response_to(full), Sam2Error("scratch has no room; name another in TMPDIR")
    said.__cause__ = full
    answers = [(plain, b"no room (no more); make some"), (response_to(said), b"TMPDIR")]
    for answer, words in answers:
        assert answer.status_code == 507
        assert json.loads(bytes(answer.body))["error"] == "StorageFull"
        assert words in answer.body and b"secret" not in answer.body
    assert response_to(OSError(errno.EIO, "broken")).status_code == 500


@pytest.mark.parametrize(
    ("error", "status", "retry_s"),
    [
        (TooManyRequests("x"), 429, "1"),
        (SessionBusy("x"), 429, "10"),
        (AtCapacity("x"), 503, "10"),
        (OutOfMemory("x"), 507, None),
    ],
)
def test_who_is_to_ask_again_is_told_when(
    error: Exception, status: int, retry_s: str | None
) -> None:
    answer = response_to(error)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_s)


def test_who_leaves_at_once_leaves_nothing_that_was_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)
    limits = Limits()
    leases = Leases(lambda: FakeSession(0.0), limits)  # type: ignore[arg-type, return-value]
    app = application(Serving(leases, limits, ThreadPoolExecutor(1)), Door(Hosts("127.0.0.1")))
    server = Server(app, leases, limits)
    server.should_exit = True
    with scratch_folder() as folder:
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            server.handle_exit(signal.SIGTERM, None)
        assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    path = tmp_path / "key.txt"
    path.write_text(KEY)
    path.chmod(0o600)
    words = [*SERVE, "--port", "0", "--key-file", str(path), "--max-sessions", "1"]
    seen = tmp_path / "seen"
    script = tmp_path / "browser.py"
    script.write_text(f"import sys; open({str(seen)!r}, 'w').write(sys.argv[1])")
    browser = f"{sys.executable} {script} %s"
    with started([*words, "--browser"], BROWSER=browser) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        from tests.runtime.serve.fakes import Running

        server = Running(told["host"], told["port"], None)  # type: ignore[arg-type]
        assert server.url == told["url"]
        assert server.ask("POST", "/claim")[0] == 401
        token = server.claim(Authorization=f"Bearer {KEY}")
        assert server.ask("POST", "/claim", Authorization=f"Bearer {KEY}")[0] == 503
        status, _, body = server.ask(
            "GET", "/capabilities", Authorization=f"Bearer {KEY}", X_Lease_Token=token
        )
        assert status == 200 and json.loads(body)["supported_interactions"]["points"]
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert out == "" and "3D Slicer" in said and "Traceback" not in said
    assert KEY not in said and token not in said
    assert seen.read_text().startswith("file:") and KEY not in seen.read_text()


def test_limits_say_how_long_a_body_may_take() -> None:
    limits = Limits()
    assert limits.body_deadline_s(0) == limits.body_s
    assert limits.body_deadline_s(20 * 2**20) == limits.body_s + 160
    assert limits.max_upload_bytes > limits.max_image_bytes


def test_the_scan_to_begin_with_is_read_as_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(*how: object) -> None:
        asked.append(how)
        raise MissingInput("that is enough")

    monkeypatch.setattr("runtime.commands.serve.read_volume", read)
    words = ["--series", "Modality=CT", "--series", "SeriesDescription=*ven*", "--affine", "sform"]
    with pytest.raises(MissingInput):
        main(["--port", "0", "--open", "scans", *words])
    with pytest.raises(MissingInput):
        main(["--port", "0", "--open", "scans", "--series", "1.2.3"])
    with pytest.raises(MissingInput):
        main(["--port", "0", "--open", "scan.nii"])
    chosen = {"Modality": "CT", "SeriesDescription": "*ven*"}
    assert asked == [
        ("scans", chosen, "sform"),
        ("scans", "1.2.3", None),
        ("scan.nii", None, None),
    ]
    for alone in (["--series", "1.2.3"], ["--affine", "sform"]):
        with pytest.raises(InputError, match="how the scan of --open is read"):
            main(["--port", "0", *alone])
