"""`python -m benchmarks soak`: many sessions one after another, and what the server has kept of them."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import trange

from runtime.errors import InputError, Sam2Error
from runtime.measure.phantom import make_phantom
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks soak --sessions 1000
  python -m benchmarks soak --sessions 50 --shape 40,256,256

Each session claims a lease, uploads a phantom of its own, prompts a box and a point, undoes, takes a seed, and ends;
every tenth is left without a word, as a viewer that crashes does. Meanwhile a client on another connection sends signs
of life, whose latency is reported. Resident memory is that of the server's process. The last line is JSON.
"""
MAX_SESSIONS = 64
SETTLED = 0.2  # share of the sessions after which memory should grow no more
BEAT_S = 0.05
Ask = Callable[..., tuple[int, bytes]]


@contextmanager
def server(words: list[str]) -> Iterator[tuple[int, int]]:
    """Process and port of a server that runs while the block does. Raises Sam2Error if none comes up."""
    command = [sys.executable, "-m", "runtime.serve", "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Sam2Error(f"the server did not start; try {' '.join(command)}")
        yield process.pid, int(json.loads(line)["port"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


def asks(port: int) -> Ask:
    """Requests over one connection, status and body of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, bytes]:
        connection.request(method, path, body, {"X-Lease-Token": token} if token else {})
        response = connection.getresponse()
        return response.status, response.read()

    return ask


def session(ask: Ask, shape: tuple[int, int, int], number: int) -> float:
    """A session from its beginning to its end; returns the seconds that its first prompt took."""
    from runtime.serve.nnia import pack  # needs blosc2, which help does not

    phantom = make_phantom(shape, seed=number)
    middle = shape[0] // 2
    box = phantom.box(middle, 1)
    token = str(json.loads(_ok(ask("POST", "/claim")))["lease_token"])
    _ok(ask("POST", "/set_image", pack(phantom.pixels[None].astype(np.int16)), token))
    buffer = {"shape": shape, "dtype": "uint8"}
    _ok(ask("POST", "/set_target_buffer", json.dumps(buffer).encode(), token))
    began = time.perf_counter()
    prompt = {"bbox_coords": [[middle, middle + 1], [*box.y], [*box.x]]}
    _ok(ask("POST", "/add_bbox_interaction", json.dumps(prompt).encode(), token))
    took_s = time.perf_counter() - began
    point = {"coordinates": [middle, 2, 2], "include_interaction": False}
    _ok(ask("POST", "/add_point_interaction", json.dumps(point).encode(), token))
    _ok(ask("POST", "/undo", b"{}", token))
    _ok(ask("POST", "/reset_interactions", b"{}", token))
    seed = pack((phantom.labels == 2).astype(np.uint8))
    _ok(ask("POST", "/add_initial_seg_interaction", seed, token))
    if number % 10:
        _ok(ask("POST", "/release", b"", token))
    return took_s


def _ok(answer: tuple[int, bytes]) -> bytes:
    status, body = answer
    if status != 200:
        raise Sam2Error(f"the server answered {status}: {body[:300]!r}")
    return body


def resident_mib(pid: int) -> float:
    """Resident memory of a process. Raises InputError where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    except (OSError, TypeError) as error:
        raise InputError("resident memory is read from /proc, which is not here") from error


class Beats:
    """Signs of life from another connection, and how long each answer took."""

    def __init__(self, port: int) -> None:
        self.took_ms: list[float] = []
        self._ask, self._is_over = asks(port), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Beats:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(BEAT_S):
            began = time.perf_counter()
            self._ask("GET", "/healthz")
            self.took_ms.append(1e3 * (time.perf_counter() - began))


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks soak",
        "Many sessions one after another, and what the server has kept of them.",
        EXAMPLES,
    )
    p.add_argument("--sessions", type=int, default=200, help="(%(default)s)")
    p.add_argument("--shape", default="6,128,128", metavar="Z,Y,X", help="(%(default)s)")
    p.add_argument("--bundle", help="default: the embedded demonstration model")
    p.add_argument("--max-memory", default="128M", metavar="BYTES", help="(%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    try:
        depth, height, width = (int(side) for side in args.shape.split(","))
    except ValueError as error:
        raise InputError(f"found --shape {args.shape}; wanted Z,Y,X such as 6,128,128") from error
    if args.sessions < 5 or depth < 3 or min(height, width) < 16:
        raise InputError("wanted at least 5 sessions, of at least 3 slices of 16 x 16 voxels")
    words = ["--max-memory", args.max_memory, "--max-sessions", str(MAX_SESSIONS)]
    words += ["--bundle", args.bundle] if args.bundle else []
    report = soak(words, args.sessions, (depth, height, width))
    print(
        f"{report['sessions']} sessions: resident memory {report['resident_mib']['settled']:.0f} MiB once settled, "
        f"{report['resident_mib']['end']:.0f} MiB in the end, {report['kib_per_session']:.1f} KiB a session; first "
        f"prompts {report['first_prompt_ms']['median']:.0f} ms, signs of life {report['beat_ms']['median']:.1f} ms, "
        f"99 % within {report['beat_ms']['p99']:.1f} ms"
    )
    print_result(report)


def soak(words: list[str], num_sessions: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The report on so many sessions of volumes of a shape (z, y, x) with a server's options."""
    resident, took_ms = [], []
    with server(words) as (pid, port), Beats(port) as beats:
        ask = asks(port)
        for number in trange(num_sessions, desc="soak", unit="session", file=sys.stderr):
            took_ms.append(1e3 * session(ask, shape, number))
            resident.append(resident_mib(pid))
        after = round(SETTLED * num_sessions)
    numbers = np.arange(after, num_sessions)
    slope_mib = np.polyfit(numbers, resident[after:], 1)[0]
    return {
        "sessions": num_sessions,
        "shape": shape,
        "resident_mib": {
            "first": round(resident[0], 1),
            "settled": round(resident[after], 1),
            "end": round(resident[-1], 1),
            "largest": round(max(resident), 1),
        },
        "kib_per_session": round(1024 * float(slope_mib), 2),
        "first_prompt_ms": {"median": round(float(np.median(took_ms)), 1)},
        "beat_ms": {
            "median": round(float(np.median(beats.took_ms)), 2),
            "p99": round(float(np.percentile(beats.took_ms, 99)), 2),
            "largest": round(max(beats.took_ms), 2),
        },
    }
