"""Frames of a video file, decoded one at a time by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, MissingInput
from runtime.process.packages import imported

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
MAX_PIXELS = 1 << 26
"""Of a frame: four times those of 8K television, and no more than 200 MB as colours."""

# What files of those suffixes are. Play lists are none of it: they make FFmpeg open other files and addresses.
_FORMATS = "mov,mp4,avi,matroska,webm,mpeg,mpegvideo,mpegts,m4v,asf"
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}


class Orientation(NamedTuple):
    """A transposition, or none, and then the direction of rows and of columns."""

    is_transposed: bool
    down: int
    right: int

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (y, x, 3) as they are to be seen."""
        pixels = pixels.transpose(1, 0, 2) if self.is_transposed else pixels
        return np.ascontiguousarray(pixels[:: self.down, :: self.right])


def read_video(path: str | PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """Frames of the first video stream, uint8 (y, x, 3), as they are decoded, turned as players turn them.

    Raises MissingInput if there is no file, MissingPackage if PyAV is not installed, and InputError for a file
    that is no video, holds no frame, changes the size of its frames, breaks off or is damaged in a way that its decoder
    tells: the frames before that have been given then.
    """
    av = imported("av")
    file = _existing(path)
    count = 0
    # One for all frames: each would make threads of its own.
    converter = imported("av.video.reformatter").VideoReformatter()
    try:
        with _opened(av, file) as container:
            for frame in _decoded(container, file):
                if count == 0:
                    size, rotation = (frame.width, frame.height), frame.rotation
                    # Asked of one frame only: it makes a circle of references, which keeps the frame for a while.
                    orientation = _orientation(frame, file)
                if (frame.width, frame.height) != size or frame.rotation != rotation:
                    raise InputError(
                        f"{file}: frame {count} is {frame.width} x {frame.height} pixels (x, y), turned by "
                        f"{frame.rotation} degrees, and those before are {size[0]} x {size[1]}, by {rotation}; wanted "
                        "frames of one size; cut the video there"
                    )
                if frame.is_corrupt:
                    raise InputError(
                        f"{file}: frame {count} is damaged, and its decoder has guessed what is missing; copy the "
                        "video again, or cut it there"
                    )
                yield orientation.apply(converter.reformat(frame, format="rgb24").to_ndarray())
                count += 1
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file} cannot be decoded after frame {count}: {error}; wanted a whole video, frames of at most "
            f"{MAX_PIXELS} pixels"
        ) from error
    if not count:
        raise InputError(f"{file} holds no frames")


def num_frames(path: str | PathLike[str]) -> int | None:
    """How many frames a file says it has, or None; for progress bars. Errors as for `read_video`."""
    av, file = imported("av"), _existing(path)
    try:
        with _opened(av, file) as container:
            said = next((int(s.frames) for s in container.streams.video), 0)
            return said if said > 0 else None
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a video: {error}") from error


def _decoded(container: Any, file: Path) -> Iterator[Any]:
    if not container.streams.video:
        raise InputError(f"{file} holds no video")
    decoder = container.streams.video[0].codec_context
    if decoder is None:
        raise InputError(f"{file} is compressed in a way that FFmpeg does not know")
    decoder.options = _OPTIONS
    yield from container.decode(video=0)


def _existing(path: str | PathLike[str]) -> Path:
    file = Path(path)
    try:
        is_there = file.is_file()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not is_there:
        raise MissingInput(f"{file} is not a file; wanted a video")
    return file


def _opened(av: Any, file: Path) -> AbstractContextManager[Any]:
    # Without a protocol in front, FFmpeg would take a name such as "concat:a" for one.
    opened: AbstractContextManager[Any] = av.open(
        f"file:{file}", options=_OPTIONS, metadata_errors="replace"
    )
    return opened


def _orientation(frame: Any, file: Path) -> Orientation:
    """How the frame's display matrix turns it: x' = a x + c y, y' = b x + d y (ISO 14496-12, 6.2.2)."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation(False, 1, 1)
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if a == d == 0 and b and c:
        return Orientation(True, 1 if b > 0 else -1, 1 if c > 0 else -1)
    if b == c == 0 and a and d:
        return Orientation(False, 1 if d > 0 else -1, 1 if a > 0 else -1)
    raise InputError(f"{file} is to be shown at an angle; wanted a multiple of 90 degrees")
