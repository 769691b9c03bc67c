from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runtime.files.scratch import START, remove_abandoned, scratch_folder

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks there")
HOLDER = """
import sys
from runtime.files.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "scan.nii").write_bytes(b"a patient's")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, for this process and those that it begins."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    """Another process with a folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen[str]) -> int:
    with process:
        return process.wait(30)


def test_a_folder_is_this_users_alone_and_goes_with_what_it_holds(temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "scan.nii").write_bytes(b"a patient's")
        raise KeyboardInterrupt
    assert os.listdir(temporary) == []


@needs_locks
def test_what_a_killed_process_left_goes_and_a_living_ones_stays(temporary: Path) -> None:
    (dead, left), (living, held) = holder(), holder()
    assert left.parent == held.parent == temporary
    dead.kill()
    ended(dead)
    assert (left / "scan.nii").exists()
    with scratch_folder():
        assert not left.exists()
        assert (held / "scan.nii").exists()
    dead, left = holder()
    dead.kill()
    ended(dead)
    remove_abandoned()  # also where this process has looked before
    assert not left.exists()
    assert (held / "scan.nii").exists()
    living.communicate("", 30)
    assert os.listdir(temporary) == []


@needs_locks
def test_what_only_looks_like_one_is_left_alone(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (temporary / f"{START}link").symlink_to(elsewhere)
    (temporary / f"{START}file").touch()
    with scratch_folder():
        pass
    assert sorted(os.listdir(temporary)) == ["elsewhere", f"{START}file", f"{START}link"]
    assert (elsewhere / "kept").exists()


@needs_locks
def test_another_users_folder_is_left_alone_also_by_who_may_do_anything(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = temporary / f"{START}left"
    left.mkdir()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    remove_abandoned()
    assert left.exists()
    monkeypatch.undo()
    remove_abandoned(str(temporary))
    assert not left.exists()


@needs_locks
def test_a_folder_that_goes_meanwhile_is_no_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, left = temporary / f"{START}gone", temporary / f"{START}left"
    gone.mkdir()
    left.mkdir()
    scan = os.scandir

    def scan_and_lose(folder: Any) -> Any:
        if folder != str(temporary):
            return scan(folder)
        seen = sorted(scan(folder), key=lambda entry: entry.name)
        gone.rmdir()
        return iter(seen)

    monkeypatch.setattr(os, "scandir", scan_and_lose)
    remove_abandoned()
    assert os.listdir(temporary) == []
