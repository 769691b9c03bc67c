"""An interrupt at any moment: exit code 130 or 0, no traceback, a whole mask or the one that was there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from runtime.files.atomic import MARK
from runtime.io import Volume, write_mask
from runtime.measure.phantom import make_phantom

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
ROOT = Path(__file__).parents[3]
OLD = b"the mask of a run before"

# Moments are counted in imports, opened, renamed and removed files from the first import after the start of
# `run_command` on (what comes before is Python's own start), or measured in seconds from there.
CODE = """
import atexit, os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
what, at, names = sys.argv[2], float(sys.argv[3]), sys.argv[4].split(",")
numbers = [getattr(signal, name) for name in names]
count, has_begun = 0, False

def send():
    for number in numbers:
        os.kill(os.getpid(), number)

def audit(event, details):
    global count, has_begun
    if event not in ("import", "open", "os.rename", "os.remove"):
        return
    if not has_begun and details[0] == "logging":
        has_begun = True
        if what == "seconds":
            timer = threading.Timer(at, send)
            timer.daemon = True
            timer.start()
    if has_begun:
        count += 1
        if (what == "event" and count == at) or (what == event and not event in done):
            done.add(event)
            send()

done = set()
if names != ["SIGKILL"]:
    for number in numbers:  # a child inherits what is ignored
        signal.signal(number, signal.SIG_IGN if what == "ignored" else signal.default_int_handler)
if what == "end":
    atexit.register(send)
if what == "count":
    atexit.register(lambda: os.write(2, b"moments: %d" % count))
if what == "ignored":
    what = "os.rename"
sys.addaudithook(audit)
from runtime.process.run import run_command
run_command("runtime.commands.segment", sys.argv[5:])
"""


@dataclass(frozen=True)
class Study:
    folder: Path
    mask: bytes
    moments: int
    """Of an undisturbed run."""


def run(
    study: Path, what: str, at: float = 0, names: str = "SIGINT"
) -> subprocess.CompletedProcess[str]:
    words = ["-i", "ct.nrrd", "-o", "mask.nrrd", "--box", "1,8,24,8,24", "--threads", "1"]
    command = [sys.executable, "-c", CODE, str(ROOT), what, str(at), names, *words]
    return subprocess.run(command, cwd=study, capture_output=True, text=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    volume = Volume.from_array(make_phantom((3, 32, 32)).pixels)
    write_mask(folder / "ct.nrrd", volume.array.astype(np.uint8), like=volume)
    done = run(folder, "count")
    assert done.returncode == 0, done.stderr
    return Study(
        folder, (folder / "mask.nrrd").read_bytes(), int(done.stderr.split("moments: ")[1])
    )


def check(study: Study, done: subprocess.CompletedProcess[str], codes: set[int]) -> None:
    """Raise AssertionError unless all is as promised; lays the old mask for the next one."""
    assert done.returncode in codes, done.stderr
    for word in ("Traceback", "Exception ignored", "Error"):
        assert word not in done.stderr, done.stderr
    assert (study.folder / "mask.nrrd").read_bytes() in (OLD, study.mask)
    if done.returncode == 0:
        assert (study.folder / "mask.nrrd").read_bytes() == study.mask
        assert json.loads(done.stdout)["kind"] == "volume"
    else:
        assert done.stderr.endswith("interrupted\n")
    assert [path for path in study.folder.iterdir() if MARK in path.name] == []


@pytest.fixture(autouse=True)
def old_mask(study: Study) -> None:
    (study.folder / "mask.nrrd").write_bytes(OLD)


@pytest.mark.parametrize("share", np.random.default_rng(11).random(6).round(3))
def test_an_interrupt_while_files_and_modules_are_opened(share: float, study: Study) -> None:
    moment = 1 + int(share * (study.moments - 1))
    check(study, run(study.folder, "event", moment), {130})


@pytest.mark.parametrize("before_the_end", range(0, 12, 2))
def test_an_interrupt_while_the_mask_is_written(before_the_end: int, study: Study) -> None:
    check(study, run(study.folder, "event", study.moments - before_the_end), {0, 130})


@pytest.mark.parametrize("seconds", np.random.default_rng(12).random(3).round(3))
def test_an_interrupt_while_libraries_work(seconds: float, study: Study) -> None:
    check(study, run(study.folder, "seconds", seconds), {0, 130})


@pytest.mark.parametrize("what", ["import", "os.rename"])
@pytest.mark.parametrize(
    ("names", "code"),
    [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT,SIGINT", 130), ("SIGTERM,SIGINT", 143)],
)
def test_other_signals_have_codes_of_their_own(
    what: str, names: str, code: int, study: Study
) -> None:
    check(study, run(study.folder, what, names=names), {code})


def test_what_a_run_was_told_to_ignore_it_ignores(study: Study) -> None:
    check(study, run(study.folder, "ignored"), {0})


def test_an_interrupt_after_the_end_is_none(study: Study) -> None:
    check(study, run(study.folder, "end"), {0})


def test_a_killed_run_leaves_one_hidden_file_which_the_next_one_removes(study: Study) -> None:
    done = run(study.folder, "os.rename", names="SIGKILL")
    assert done.returncode == -signal.SIGKILL
    assert (study.folder / "mask.nrrd").read_bytes() == OLD
    assert sum(MARK in path.name for path in study.folder.iterdir()) == 1
    assert run(study.folder, "none").returncode == 0
    assert sorted(path.name for path in study.folder.iterdir()) == ["ct.nrrd", "mask.nrrd"]
