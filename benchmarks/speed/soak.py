"""`python -m benchmarks soak`: many sessions one after another, and what the server has kept of them."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import trange

from benchmarks.speed.soak_session import Client, live
from runtime.devices.machine import machine_name
from runtime.errors import InputError, Sam2Error
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks soak --sessions 1000
  python -m benchmarks soak --sessions 50 --shape 40,256,256

Each session claims a lease, uploads a phantom of its own, prompts a box, and then whatever its number draws: points,
boxes, scribbles and lassos in all planes, seeds, undo, reset. Seven of ten end as they should; the others leave without
a word, go away while a prompt is answered, or while an image is sent. Meanwhile a client on another connection sends
signs of life, whose latency is reported. Resident memory, of the server's process, is compared when a fifth of
the sessions and when all are over, each time once those that left without a word have ended. The last line is JSON.
"""
MAX_SESSIONS = 200  # those that left without a word count until the server has noticed
SETTLED = 0.2  # share of the sessions after which memory should grow no more
BEAT_S = 0.05
SPARE_S = 5.0  # more than the server takes to notice that a session is over


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
        self._client, self._is_over = Client(port), threading.Event()
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
            self._client.ask("GET", "/healthz")
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
    rested: dict[int, float] = {}
    ends: Counter[str] = Counter()
    verbs: Counter[str] = Counter()
    settled = round(SETTLED * num_sessions)
    with server(words) as (pid, port), Beats(port) as beats:
        for number in trange(1, num_sessions + 1, desc="soak", unit="session", file=sys.stderr):
            lived = live(port, shape, number)
            took_ms.append(1e3 * lived.first_prompt_s)
            ends[lived.end] += 1
            verbs.update(lived.verbs)
            resident.append(resident_mib(pid))
            if number in (settled, num_sessions):
                rested[number] = at_rest_mib(pid, port)
    grown_mib = rested[num_sessions] - rested[settled]
    return {
        "machine": machine_name(),
        "sessions": num_sessions,
        "shape": shape,
        "ends": dict(sorted(ends.items())),
        "prompts": dict(sorted(verbs.items())),
        "resident_mib": {
            "first": round(resident[0], 1),
            "settled": round(rested[settled], 1),
            "end": round(rested[num_sessions], 1),
            "largest": round(max(resident), 1),
        },
        "kib_per_session": round(1024 * grown_mib / (num_sessions - settled), 2),
        "first_prompt_ms": {"median": round(float(np.median(took_ms)), 1)},
        "beat_ms": {
            "median": round(float(np.median(beats.took_ms)), 2),
            "p99": round(float(np.percentile(beats.took_ms, 99)), 2),
            "largest": round(max(beats.took_ms), 2),
        },
    }


def at_rest_mib(pid: int, port: int) -> float:
    """Resident memory once the sessions that were left without a word have ended, of which there may be many or few."""
    client = Client(port)
    said = json.loads(client.ask("POST", "/claim"))
    client.token = said["lease_token"]
    client.ask("POST", "/release")
    client.close()
    time.sleep(float(said["liveness_timeout_seconds"]) + SPARE_S)
    return resident_mib(pid)
