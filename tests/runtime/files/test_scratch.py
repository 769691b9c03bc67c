from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import MissingInput, Sam2Error
from runtime.files.atomic import write_text
from runtime.files.scratch import START, remove_abandoned, scratch_folder
from runtime.io import read_volume
from tests.dicoms import bundled

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks there")
HOLDER = """
import sys
from runtime.files.atomic import write_text
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


def test_a_full_temporary_folder_is_told_of_and_not_what_was_to_be_read(temporary: Path) -> None:
    """Also by pydicom, around whose own words of the system's it puts others."""
    sentence = rf"{temporary}.* no room .No space left.*TMPDIR"
    with pytest.raises(Sam2Error, match=sentence) as caught, scratch_folder():
        raise OSError("With tag (7FE0,0010)") from OSError(errno.ENOSPC, "No space left")
    assert caught.value.exit_code == 1
    assert list(temporary.iterdir()) == []


def test_a_full_temporary_folder_is_told_of_whoever_was_writing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes whole files says that what was there is kept, and nothing was there."""

    def full(part: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("runtime.files.atomic.sync_file", full)
    with (
        pytest.raises(Sam2Error, match=rf"^{temporary}.* no room .Disk quota.*TMPDIR"),
        scratch_folder() as folder,
    ):
        write_text(folder / "masks.txt", "x")
    kept = r"kept\.txt could not be written: Disk quota exceeded; what was there is kept"
    with pytest.raises(Sam2Error, match=kept), scratch_folder():
        write_text(temporary / "kept.txt", "x")


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "x"), MissingInput("x"), ValueError("x"), Sam2Error("x")],
)
def test_other_errors_pass_through(temporary: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, scratch_folder():
        raise error
    assert caught.value is error


def test_no_temporary_folder_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose disks may only be read."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("runtime.files.scratch.gettempdir", none)
    with (
        pytest.raises(Sam2Error, match=r"No usable temporary directory.*TMPDIR") as caught,
        scratch_folder(),
    ):
        pass
    assert caught.value.exit_code == 1


def test_a_frame_that_finds_no_room_is_not_called_damaged(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Sam2Error, match=r"no room .No space left on device.;") as caught:
        read_volume(bundled("MR_small_jp2klossless.dcm"))
    assert caught.value.exit_code == 1
