from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from runtime.errors import Sam2Error
from runtime.files.atomic import MARK
from runtime.files.atomic_folder import _remove_abandoned, write_whole_folder

NAMES = ("a", "b", "c")
WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")),
    False,
]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def filled(letter: str):
    def write(folder: Path) -> None:
        for name in NAMES:
            (folder / name).write_text(letter * 10_000)

    return write


def check(folder: Path) -> str:
    """The letter of a whole folder."""
    (text,) = {(folder / name).read_text() for name in NAMES}
    (letter,) = set(text)
    assert len(text) == 10_000
    return letter


@pytest.fixture
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that can exchange two names, and as on one that cannot."""
    if not request.param:
        monkeypatch.setattr("runtime.files.atomic_folder._exchange_at_once", lambda *_: False)


def test_a_new_folder_has_its_name_once_it_has_been_checked(tmp_path: Path) -> None:
    seen = []

    def look(folder: Path) -> None:
        assert not (tmp_path / "x").exists()
        seen.append(check(folder))

    assert write_whole_folder(tmp_path / "x", filled("1"), look) == tmp_path / "x"
    assert seen == ["1"]
    assert check(tmp_path / "x") == "1"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("at_once", WAYS, indirect=True)
def test_an_old_folder_is_there_until_the_new_one_has_been_checked(
    at_once: None, tmp_path: Path
) -> None:
    path = write_whole_folder(tmp_path / "x", filled("1"), check)

    def look(_: Path) -> None:
        assert check(path) == "1"

    write_whole_folder(path, filled("2"), look, is_replaced=True)
    assert check(path) == "2"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("stage", ["write", "check"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    is_replaced: bool, stage: str, error: BaseException, tmp_path: Path
) -> None:
    if is_replaced:
        write_whole_folder(tmp_path / "x", filled("1"), check)

    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise error

    write, look = (fail, check) if stage == "write" else (filled("2"), fail)
    with pytest.raises(Sam2Error if isinstance(error, OSError) else KeyboardInterrupt):
        write_whole_folder(tmp_path / "x", write, look, is_replaced)
    assert names(tmp_path) == ["x"] * is_replaced
    assert not is_replaced or check(tmp_path / "x") == "1"


def test_where_names_cannot_be_exchanged_at_once_the_old_folder_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole_folder(tmp_path / "x", filled("1"), check)
    monkeypatch.setattr("runtime.files.atomic_folder._exchange_at_once", lambda *_: False)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == path and ".old-" not in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Sam2Error, match="Input/output error; what was there is kept"):
        write_whole_folder(path, filled("2"), check, is_replaced=True)
    assert check(path) == "1"
    assert names(tmp_path) == ["x"]


def test_an_old_folder_that_was_moved_aside_is_never_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the one moment when nothing has the name."""
    path = write_whole_folder(tmp_path / "x", filled("1"), check)
    monkeypatch.setattr("runtime.files.atomic_folder._exchange_at_once", lambda *_: False)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom runtime.files import atomic_folder\n"
        "atomic_folder._exchange_at_once = lambda *_: False\n"
        "rename = Path.rename\n"
        "def killed(self, target):\n"
        "    rename(self, target)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.rename = killed\n"
        "atomic_folder.write_whole_folder(sys.argv[1], lambda f: None, print, is_replaced=True)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert not path.exists()
    write_whole_folder(path, filled("2"), check)
    (old,) = (name for name in names(tmp_path) if name != "x")
    assert old.startswith(".x.old-")
    assert check(tmp_path / old) == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_permissions_are_those_of_the_old_folder_or_the_users_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "x"
    usual = os.umask(0o777)
    try:
        write_whole_folder(path, filled("1"), check)
    finally:
        os.umask(usual)
    assert path.stat().st_mode & 0o777 == 0
    path.chmod(0o750)
    write_whole_folder(path, filled("2"), lambda _: None, is_replaced=True)
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_folder_that_has_appeared_meanwhile_is_not_touched(tmp_path: Path) -> None:
    def look(_: Path) -> None:
        write_whole_folder(tmp_path / "x", filled("1"), check)

    with pytest.raises(Sam2Error, match="was not there before, and is now; it is kept"):
        write_whole_folder(tmp_path / "x", filled("2"), look)
    assert check(tmp_path / "x") == "1"
    assert names(tmp_path) == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk: the system refuses to let a file grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(Sam2Error, match="could not be written: File too large"):
            write_whole_folder(tmp_path / "x", filled("1"), check)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_what_a_killed_writer_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom runtime.files.atomic_folder import write_whole_folder\n"
        "def write(folder):\n"
        "    (folder / 'a').write_text('half'); print('there', flush=True); time.sleep(60)\n"
        "write_whole_folder(sys.argv[1], write, print)"
    )
    target = tmp_path / "x"
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"there\n"
    write_whole_folder(target, filled("1"), check)  # beside a living writer, whose folder stays
    assert sum(MARK in name for name in names(tmp_path)) == 1
    child.send_signal(signal.SIGKILL)
    child.communicate()
    write_whole_folder(target, filled("2"), check, is_replaced=True)
    assert check(target) == "2"
    assert names(tmp_path) == ["x"]


def _write_often(path: str, letter: str) -> None:
    for _ in range(20):
        write_whole_folder(path, filled(letter), check, is_replaced=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one of them may find no folder")
def test_several_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    path = write_whole_folder(tmp_path / "x", filled("0"), check)
    context = get_context("spawn")
    writers = [context.Process(target=_write_often, args=(str(path), c)) for c in "12"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert check(path) in "12"
    assert names(tmp_path) == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_a_folder_taken_for_abandoned_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def mkdir_and_lose(self: Path, mode: int) -> None:
        mkdir(self, mode)
        if MARK in self.name:
            made.append(self)
            if len(made) == 1:
                _remove_abandoned(tmp_path / "x")  # as another process does
                assert not self.exists()

    monkeypatch.setattr(Path, "mkdir", mkdir_and_lose)
    assert check(write_whole_folder(tmp_path / "x", filled("1"), check)) == "1"
    assert len(made) == 2
    assert names(tmp_path) == ["x"]
