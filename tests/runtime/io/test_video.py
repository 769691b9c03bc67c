"""Videos, frame by frame."""

from __future__ import annotations

import gc
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import runtime.io.pictures.video
from runtime.errors import BackendUnavailable, InputError, MissingInput
from runtime.io.pictures.video import VIDEO_SUFFIXES, num_frames, read_video
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
    with pytest.raises(
        BackendUnavailable, match=r"pip install .medsam2-runtime\[video\]"
    ) as refused:
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


def test_a_frame_that_its_decoder_has_guessed_is_refused(tmp_path: Path) -> None:
    path, noise = tmp_path / "clip.mp4", np.random.default_rng(1)
    write_clip(path, noise.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8), "libx264")
    whole, data = list(read_video(path)), path.read_bytes()
    at = len(data) // 2  # where there is nothing but compressed pixels
    path.write_bytes(data[:at] + bytes(64) + data[at + 64 :])
    with av.open(str(path)) as container:
        guessed = [frame.is_corrupt for frame in container.decode(video=0)]
    found = []
    with pytest.raises(InputError, match=rf"frame {guessed.index(True)} is damaged, and its"):
        for each in read_video(path):
            found.append(each)
    assert len(guessed) == COUNT and len(found) < COUNT
    np.testing.assert_array_equal(found, whole[: len(found)])


UPRIGHT, CLOCKWISE, HALF, COUNTER, MIRRORED = (
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
)


def show_with(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """Write a, b, c, d into the track header of a QuickTime file, 16.16 (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, at) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (int(value * 65536) for value in matrix)
    struct.pack_into(">5i", data, at, a, b, 0, c, d)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        (UPRIGHT, lambda f: f),
        (CLOCKWISE, lambda f: np.rot90(f, -1)),  # as telephones held upright write
        (HALF, lambda f: np.rot90(f, 2)),
        (COUNTER, lambda f: np.rot90(f, 1)),
        (MIRRORED, lambda f: f[:, ::-1]),
    ],
    ids=["upright", "clockwise", "half", "counter", "mirrored"],
)
def test_frames_are_turned_as_players_turn_them(
    matrix: tuple[int, int, int, int], turned: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, FRAMES)
    as_stored = list(read_video(path))
    show_with(path, matrix)
    for stored, found in zip(as_stored, read_video(path), strict=True):
        np.testing.assert_array_equal(found, turned(stored))


def test_frames_at_an_angle_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", FRAMES)
    show_with(tmp_path / "clip.mp4", (0.7, 0.7, -0.7, 0.7))
    with pytest.raises(InputError, match=r"clip\.mp4 is to be shown at an angle"):
        one(tmp_path / "clip.mp4")


def test_frames_that_change_their_size_are_refused_where_they_do(tmp_path: Path) -> None:
    """Streams of MPEG-1 may follow each other in one file."""
    parts = []
    for height in (HEIGHT, 2 * HEIGHT):
        path = tmp_path / f"{height}.mpg"
        with av.open(str(path), "w", format="mpeg") as container:
            stream = container.add_stream("mpeg1video", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, height, "yuv420p"
            for each in FRAMES:
                pixels = np.resize(each, (height, WIDTH, 3))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        parts.append(path.read_bytes())
    (tmp_path / "clip.mpg").write_bytes(b"".join(parts))
    found = []
    with pytest.raises(InputError, match=r"frame \d is 80 x 96 pixels .* before are 80 x 48, by 0"):
        for each in read_video(tmp_path / "clip.mpg"):
            found.append(each)
    assert len(found) >= COUNT - 1
    assert {each.shape for each in found} == {(HEIGHT, WIDTH, 3)}


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match=r"none\.mkv (holds no frames|cannot be decoded after)"):
        one(tmp_path / "none.mkv")


def test_a_frame_too_large_is_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = HEIGHT * WIDTH - 1
    options = {**runtime.io.pictures.video._OPTIONS, "max_pixels": str(limit)}
    monkeypatch.setattr(runtime.io.pictures.video, "_OPTIONS", options)
    with pytest.raises(InputError, match=r"clip\.avi cannot be decoded .*at most \d+ pixels"):
        one(clip)


def test_the_largest_frame_is_that_of_the_constant() -> None:
    assert runtime.io.pictures.video._OPTIONS["max_pixels"] == str(
        runtime.io.pictures.video.MAX_PIXELS
    )


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
@pytest.mark.parametrize("read", READERS)
def test_a_list_of_other_files_is_no_video(
    read: Callable[[Path], Any], text: str, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.mp4").write_text(text.format(clip.name))
    with pytest.raises(InputError, match=r"list\.mp4 cannot be"):
        read(tmp_path / "list.mp4")


@pytest.mark.parametrize("name", [b"concat:a.avi", b"http:a.avi", b"%03d.avi", b"\xff\xfe.avi"])
def test_a_name_is_nothing_but_a_name(
    name: bytes, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = clip.rename(os.fsdecode(name))
    assert len(list(read_video(path))) == num_frames(path) == COUNT


def num_frames_held() -> int:
    # type() asks no object: some of other packages answer isinstance with a warning.
    return sum(type(each) is av.VideoFrame for each in gc.get_objects())


def test_frames_are_let_go_one_by_one(clip: Path) -> None:
    """Without waiting for the collector of circles, which counts objects and not megabytes."""
    gc.collect()
    gc.disable()
    try:
        before = num_frames_held()
        for _ in read_video(clip):
            pass
        after = num_frames_held()
    finally:
        gc.enable()
    assert after - before < COUNT // 2
