"""Opening files of others: plain ones only, since a device or a pipe may block, never end, or act when it is opened."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_plain(path: Path, follows: bool = True) -> io.BufferedReader:
    """A regular file, opened for reading without ever waiting for it.

    Args:
        path: of the file.
        follows: whether it may be a link, since stores that keep content by its hash lay folders out so.

    Raises OSError for a device, a pipe, a socket or a folder, for a link that is not followed, and where the system
    refuses.
    """
    _check_plain(path.stat() if follows else path.lstat(), path)
    descriptor = os.open(path, os.O_RDONLY | _FLAGS | (0 if follows else _NO_LINK))
    try:
        _check_plain(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path, max_bytes: int) -> bytes:
    """The bytes of a plain file, never more than `max_bytes` + 1, so that a longer one can be told; errors as above."""
    with open_plain(path) as stream:
        return stream.read(max_bytes + 1)


def _check_plain(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
