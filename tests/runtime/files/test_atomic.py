from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.files.atomic import MARK, check_folder, write_text, write_whole
from tests.dicoms import an_image


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_temporary_name_keeps_the_suffixes_and_the_file_takes_its_place(tmp_path: Path) -> None:
    seen = []

    def write(part: Path) -> None:
        seen.append(part)
        part.write_bytes(b"new")

    (tmp_path / "a.nii.gz").write_bytes(b"old")
    assert write_whole(tmp_path / "a.nii.gz", write) == tmp_path / "a.nii.gz"
    assert seen[0].name.startswith(".a.nii.gz") and seen[0].name.endswith(".nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == b"new"
    assert names(tmp_path) == ["a.nii.gz"]


@pytest.mark.parametrize("stage", ["write", "check"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, stage: str, error: BaseException) -> None:
    def fail(_: Path) -> None:
        raise error

    path = tmp_path / "a.json"
    path.write_text("old")
    write, check = (fail, None) if stage == "write" else (lambda part: part.write_text("x"), fail)
    with pytest.raises(Sam2Error if isinstance(error, OSError) else KeyboardInterrupt):
        write_whole(path, write, check)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on files")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_told_of_in_a_sentence_whoever_writes(tmp_path: Path) -> None:
    """pydicom puts a traceback into the error that it raises in place of the system's."""
    dataset = an_image(np.zeros((64, 64)), CTImageStorage, "1.2.3", ExplicitVRLittleEndian)
    with pytest.raises(Sam2Error) as caught:
        write_whole(tmp_path / "a.dcm", lambda part: dataset.save_as("/dev/full"))
    assert str(caught.value).endswith(
        "a.dcm could not be written: No space left on device; what was there is kept"
    )


def test_what_a_killed_writer_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom runtime.files.atomic import write_whole\n"
        "def write(part):\n    part.write_text('half'); print('there', flush=True); time.sleep(60)\n"
        "write_whole(sys.argv[1], write)"
    )
    target = tmp_path / "mask.nrrd"
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"there\n"
    write_text(target, "whole")  # beside a living writer, whose file stays
    assert sum(MARK in name for name in names(tmp_path)) == 1
    child.send_signal(signal.SIGKILL)
    child.communicate()
    write_text(target, "whole")
    assert names(tmp_path) == ["mask.nrrd"]


def _write_often(path: str, letter: str) -> None:
    for _ in range(30):
        write_text(path, letter * 10_000)


def test_several_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    context = get_context("spawn")
    writers = [context.Process(target=_write_often, args=(str(path), c)) for c in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 10_000, "b" * 10_000)
        time.sleep(0.001)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert names(tmp_path) == ["a.txt"]


def test_names_of_any_bytes_and_of_any_length(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"\xff\xfe.json"), "ü" * 100 + ".json"):
        write_text(tmp_path / name, "x")
    assert len(names(tmp_path)) == 2


def test_temporary_names_are_short_and_never_end_within_a_letter(tmp_path: Path) -> None:
    for length in range(50, 70):
        seen: list[Path] = []
        path = tmp_path / ("a" * length + "ü" * 20 + ".nii.gz")
        write_whole(path, lambda part, seen=seen: (seen.append(part), part.touch()))
        assert len(seen[0].name.encode("utf-8")) <= 143


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.json").write_text("old")
    (tmp_path / "link.json").symlink_to("there/a.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "a.json").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Sam2Error, match="no file"):
        write_text(tmp_path / "pipe", "new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
@pytest.mark.parametrize(
    ("umask", "before", "mode"), [(0o022, None, 0o644), (0o777, None, 0), (0, 0o600, 0o600)]
)
def test_permissions_are_those_of_what_was_there_or_the_users_usual_ones(
    tmp_path: Path, umask: int, before: int | None, mode: int
) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.touch()
        path.chmod(before)
    modes: list[int] = []
    usual = os.umask(umask)
    try:
        write_whole(path, lambda part: (part.write_text("x"), modes.append(part.stat().st_mode)))
    finally:
        os.umask(usual)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert modes[0] & 0o600 == 0o600  # this process can read back what it writes


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Sam2Error, match=r"none.*could not be written"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_a_folder_that_cannot_be_made_or_written_into_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        check_folder(folder)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(MissingInput, match="none is not a folder; make it first"):
        check_folder(tmp_path / "none" / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(InputError, match=f"{tmp_path} may not be written to"):
            check_folder(folder)
    assert names(tmp_path) == ["file"]
