"""Videos, frame by frame."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.errors import BackendUnavailable, InputError, MissingInput
from runtime.io.video import VIDEO_SUFFIXES, num_frames, read_video
from tests.clips import write_clip

HEIGHT, WIDTH, COUNT = 48, 80, 7
CONTAINERS = (".mp4", ".avi", ".mkv", ".mov")


def frame(index: int) -> np.ndarray:
    """The left half is red, the right half as bright as its number says."""
    pixels = np.full((HEIGHT, WIDTH, 3), 30 * index, np.uint8)
    pixels[:, : WIDTH // 2] = (200, 0, 0)
    return pixels


FRAMES = [frame(index) for index in range(COUNT)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.avi", FRAMES)
    return tmp_path / "clip.avi"


def one(path: Path) -> np.ndarray:
    return next(read_video(path))


READERS: list[Callable[[Path], Any]] = [one, num_frames]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_clip_is_read_frame_by_frame(suffix: str, tmp_path: Path) -> None:
    assert suffix in VIDEO_SUFFIXES
    path = tmp_path / f"clip{suffix}"
    write_clip(path, FRAMES)
    found = list(read_video(str(path)))
    assert len(found) == COUNT
    for written, read in zip(FRAMES, found, strict=True):
        assert read.dtype == np.uint8
        assert read.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(read.astype(int) - written).mean() < 6  # of lossy compression


def test_a_file_says_how_many_frames_it_has(clip: Path, tmp_path: Path) -> None:
    assert num_frames(clip) == COUNT
    write_clip(tmp_path / "clip.mkv", FRAMES)
    assert num_frames(tmp_path / "clip.mkv") is None, "this container does not say"


def test_a_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(InputError, match=r"sound\.mkv holds no video"):
        one(path)
    assert num_frames(path) is None


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_not_there_is_missed(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for name in ("absent.mp4", "folder.mp4"):
        with pytest.raises(MissingInput, match=rf"{name} is not a file; wanted a video"):
            read(tmp_path / name)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", [b"", b"this is no video at all " * 40])
def test_a_file_that_is_no_video_is_refused(
    content: bytes, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4 cannot be (decoded after frame 0|read as a vid)"):
        read(tmp_path / "a.mp4")


@pytest.mark.parametrize("read", READERS)
def test_without_pyav_it_says_what_to_install(
    read: Callable[[Path], Any], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendUnavailable, match="pip install av") as refused:
        read(clip)
    assert refused.value.exit_code == 5


def test_a_file_cut_short_gives_the_frames_before_the_cut_and_then_an_error(clip: Path) -> None:
    whole = list(read_video(clip))
    data = clip.read_bytes()
    movie = re.compile(b"00dc").finditer(data, data.index(b"movi"))
    _, _, third, *_ = (found.start() for found in movie)
    clip.write_bytes(data[: third + 30])
    found = []
    with pytest.raises(InputError, match=r"clip\.avi cannot be decoded after frame 2: "):
        for each in read_video(clip):
            found.append(each)
    np.testing.assert_array_equal(found, whole[:2])


def test_a_container_that_hides_the_cut_gives_fewer_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_clip(path, FRAMES)
    whole = list(read_video(path))
    path.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
    found = list(read_video(path))
    assert 0 < len(found) < COUNT
    np.testing.assert_array_equal(found[:-1], whole[: len(found) - 1])  # the last one may be torn
