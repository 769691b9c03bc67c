"""Data files that a header names: plain files beside it, so that no name reaches a device, a pipe or another folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import VolumeError

MAX_FILES = 1 << 14
"""More files than this are not one volume."""

# printf's %d with at most two digits of width; whatever else printf knows has no place in a name.
_PATTERN = re.compile(r"[^%]*%0?\d{0,2}d[^%]*")


def beside(header: Path, name: str) -> Path:
    """The file called `name` in the folder of `header`, which is one and is really there; of a link, what it leads to.

    Raises VolumeError for what is missing, for paths and for links that lead out of the folder.
    """
    name = name.removeprefix("./")
    if name in ("", ".", "..") or any(letter in name for letter in "/\\:\0"):
        raise VolumeError(
            f"{header}: found the data file {name!r}; wanted the plain name of a file in the same "
            "folder; put the data beside its header and write its name there"
        )
    path = header.parent / name
    if not path.is_file():
        raise VolumeError(f"{header}: its data file {name!r} is no file in its folder; put it back")
    if not path.is_symlink():
        return path
    target = path.resolve()
    if target.parent != header.parent.resolve():
        raise VolumeError(
            f"{header}: its data file {name!r} is a link out of the folder; copy the data there"
        )
    return target


def listed(header: Path, names: Sequence[str]) -> list[Path]:
    """The files of those names; VolumeError for far too many, one twice, and as beside raises it."""
    if len(names) > MAX_FILES:
        raise VolumeError(f"{header}: found {len(names)} data files; wanted at most {MAX_FILES}")
    if len({name.removeprefix("./") for name in names}) < len(names):
        raise VolumeError(f"{header} names a data file twice; wanted each slice once")
    return [beside(header, name) for name in names]


def numbered(header: Path, pattern: str, first: int, last: int, step: int) -> list[Path]:
    """The files of a pattern such as `slice%03d.raw`, numbered from first to last, both included.

    Raises VolumeError for any other pattern, for no or far too many files, and as beside does.
    """
    if not _PATTERN.fullmatch(pattern):
        raise VolumeError(
            f"{header}: found the file pattern {pattern!r}; wanted one number such as %d or %03d "
            "in a plain name; list the files by name instead"
        )
    numbers = range(first, last + 1, step) if step > 0 else range(0)
    if not 0 < last - first + 1 <= MAX_FILES * max(step, 1) or not numbers:
        raise VolumeError(
            f"{header}: found files numbered from {first} to {last} in steps of {step}; "
            f"wanted 1 to {MAX_FILES} files"
        )
    return listed(header, [pattern % number for number in numbers])
