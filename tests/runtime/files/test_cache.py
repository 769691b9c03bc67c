"""The folder of what can be made again: its absence, its damage and its company are no errors."""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

import runtime.files.cache
from runtime.files.cache import VARIABLE, cache_folder, read_cached, write_cached


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_kind_of_thing_has_a_folder_of_this_users_own(own_cache: Path) -> None:
    folder = cache_folder("engines")
    assert folder == own_cache / "engines" and folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users have no numbers here")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_that_others_write_into_is_not_used_and_the_log_says_so(
    mode: int, is_link: bool, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own_cache / "engines"
    (own_cache / "elsewhere" if is_link else folder).mkdir(parents=True)
    if is_link:
        folder.symlink_to("elsewhere")
    assert cache_folder("engines") == folder
    folder.chmod(mode)
    assert cache_folder("engines") is None
    assert "can be written by others" in caplog.text and VARIABLE in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users have no numbers here")
def test_nothing_of_another_users_is_used(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cache_folder("engines")
    assert folder is not None
    write_cached(folder / "a.blob", b"bytes")
    other = os.geteuid() + 1
    monkeypatch.setattr("runtime.files.cache.os.geteuid", lambda: other)
    assert read_cached(folder / "a.blob") is None
    assert cache_folder("engines") is None
    assert f"not to {other}" in caplog.text


def test_nothing_is_kept_where_the_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert cache_folder("engines") is None


def test_nothing_is_kept_where_no_folder_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert cache_folder("engines") is None


def test_nothing_is_kept_in_a_folder_that_may_only_be_read(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder("engines") is not None
    asked = []
    monkeypatch.setattr(runtime.files.cache.os, "access", lambda *args: asked.append(args))
    assert cache_folder("engines") is None
    assert asked == [(own_cache / "engines", os.W_OK)]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have no XDG")
@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"XDG_CACHE_HOME": "{}/x"}, "x/medsam2-runtime/kind"),
        ({"HOME": "{}"}, ".cache/medsam2-runtime/kind"),
        ({"HOME": "there", "XDG_CACHE_HOME": ""}, None),
        ({"XDG_CACHE_HOME": "there"}, None),
        ({"HOME": "{}/file"}, None),
        ({"HOME": "/proc/self"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_homes_of_all_kinds(
    variables: dict[str, str],
    wanted: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    for name in (VARIABLE, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))

    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    folder = cache_folder("kind")
    assert folder == (wanted and tmp_path / wanted)
    assert folder is not None or os.listdir(tmp_path) == ["file"]


def test_what_is_kept_is_found_again_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.blob"
    assert read_cached(path) is None
    for data in (b"", b"bytes"):
        write_cached(path, data)
        assert read_cached(path) == data
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", whole[:40] + b"x" + whole[41:]):
        path.write_bytes(damaged)
        assert read_cached(path) is None


def test_what_there_is_no_room_for_is_not_kept_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_cached(tmp_path / "a.blob", b"old")
    monkeypatch.setattr("runtime.files.atomic.os.fsync", full)
    write_cached(tmp_path / "a.blob", b"new")
    assert read_cached(tmp_path / "a.blob") == b"old"
    assert "No space left" in caplog.text


def _fill(folder: str, letter: bytes) -> None:
    for number in range(20):
        write_cached(Path(folder) / f"{number % 3}.blob", letter * 10_000)
        assert read_cached(Path(folder) / f"{number % 3}.blob") in (b"a" * 10_000, b"b" * 10_000)


def test_two_processes_fill_it_at_once(own_cache: Path) -> None:
    folder = cache_folder("kind")
    fillers = [
        get_context("fork").Process(target=_fill, args=(str(folder), x)) for x in (b"a", b"b")
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    assert [filler.exitcode for filler in fillers] == [0, 0]
    assert sorted(os.listdir(own_cache / "kind")) == ["0.blob", "1.blob", "2.blob"]
