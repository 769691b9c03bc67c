"""A process that damages and reads files, one line of standard input a case, one line of JSON an answer.

It may die of what it reads, or never answer: `benchmarks.fuzz.pool` watches it from outside.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.target import Target
from runtime.errors import OutOfMemory, Sam2Error

MEMORY_BYTES = 1 << 30
"""What reading one small file may ask for on top of what the process has."""


def damaged(target: Target, name: str, seed: int, healthy: Path, folder: Path) -> None:
    """Put the damaged copy of the healthy files that this target and seed stand for into a folder."""
    shutil.copytree(healthy, folder)
    target.damage(folder, Random(zlib.crc32(name.encode()) << 32 | seed))


def verdict(target: Target, folder: Path, truth: Any) -> tuple[str, str]:
    """What became of reading a damaged folder: one of `pool.OUTCOMES`, and more words where it is a fault."""
    try:
        answer = target.read(folder)
    except (OutOfMemory, MemoryError) as error:
        return "greedy", str(error)
    except Sam2Error:
        return "refused", ""
    except Exception:
        return "traceback", traceback.format_exc(limit=-6)
    why = target.judge(answer, folder, truth)
    return ("read", "") if why is None else ("wrong", why)


def main(targets: Mapping[str, Target]) -> None:
    """Answer cases until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    logging.disable()
    prepared: dict[str, tuple[Path, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        for line in sys.stdin:
            name, number = line.split()
            if name not in prepared:
                healthy = Path(root) / f"healthy-{len(prepared)}"
                healthy.mkdir()
                _limit_memory(None)
                prepared[name] = healthy, targets[name].prepare(healthy)
                outcome, words = verdict(targets[name], healthy, prepared[name][1])
                if outcome != "read":
                    raise RuntimeError(f"the healthy {name} is {outcome}: {words}")
                _limit_memory(MEMORY_BYTES)
            healthy, truth = prepared[name]
            folder = Path(root) / "case"
            damaged(targets[name], name, int(number), healthy, folder)
            outcome, words = verdict(targets[name], folder, truth)
            shutil.rmtree(folder)
            answers.write(json.dumps({"outcome": outcome, "words": words[-3000:]}) + "\n")
            answers.flush()


def _limit_memory(more: int | None) -> None:
    """Bound the address space to what there is now and so many bytes more; None takes the bound away."""
    if sys.platform != "linux":  # others do not limit what a process may ask for
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard
    if more is not None:
        soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    module, _, attribute = sys.argv[1].partition(":")
    main(getattr(import_module(module), attribute))
