"""Readers with one known fault each, to see whether it is seen."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.mutate import damage
from benchmarks.fuzz.target import Target
from runtime.errors import InputError

HEALTHY = b"healthy" * 100


def faulty(read_damaged: Any) -> Target:
    """Healthy files are read; what happens to others is `read_damaged`'s."""

    def prepare(folder: Path) -> bytes:
        (folder / "a").write_bytes(HEALTHY)
        return HEALTHY

    def spoil(folder: Path, rng: Random) -> None:
        (folder / "a").write_bytes(damage(HEALTHY, rng))

    def read(folder: Path) -> bytes:
        data = (folder / "a").read_bytes()
        return data if data == HEALTHY else read_damaged(data)

    def judge(answer: bytes, folder: Path, truth: bytes) -> str | None:
        return None if answer == truth else "other bytes"

    return Target(prepare, spoil, read, judge)


def refuse(data: bytes) -> bytes:
    raise InputError("found another word")


def forever(data: bytes) -> bytes:
    while True:
        pass


TARGETS = {
    "read": faulty(lambda data: HEALTHY),
    "refused": faulty(refuse),
    "traceback": faulty(lambda data: data.decode("no such codec")),
    "greedy": faulty(lambda data: bytes(1 << 40)),
    "crashed": faulty(lambda data: os.abort()),
    "hung": faulty(forever),
    "wrong": faulty(lambda data: data),
}
UNREADABLE = {
    "unreadable": Target(
        lambda f: (f / "a").touch(), lambda f, rng: None, refuse, lambda a, f, t: None
    )
}
