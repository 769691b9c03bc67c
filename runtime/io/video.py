"""Frames of a video file, decoded one at a time by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BackendUnavailable, InputError, MissingInput

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


def read_video(path: str | PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """Frames of the first video stream, uint8 (y, x, 3), as they are decoded.

    Raises MissingInput if there is no file, BackendUnavailable if PyAV is not installed, and InputError for a file
    that is no video, or that breaks off: the frames before that have been given then.
    """
    av = _decoder()
    file = _existing(path)
    count = 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise InputError(f"{file} holds no video")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
                count += 1
    except av.FFmpegError as error:
        raise InputError(f"{file} cannot be decoded after frame {count}: {error}") from error


def num_frames(path: str | PathLike[str]) -> int | None:
    """How many frames a file says it has, or None; for progress bars. Errors as for `read_video`."""
    av, file = _decoder(), _existing(path)
    try:
        with av.open(str(file)) as container:
            return next((int(s.frames) or None for s in container.streams.video), None)
    except av.FFmpegError as error:
        raise InputError(f"{file} cannot be read as a video: {error}") from error


def _decoder() -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise BackendUnavailable(
            "videos are decoded by PyAV, which is not installed; pip install av"
        ) from error


def _existing(path: str | PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise MissingInput(f"{file} is not a file; wanted a video")
    return file
