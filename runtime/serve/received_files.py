"""Files that a browser sends in one body: taken apart into a temporary folder, read as a volume, and gone.

The body is the length of its head (four bytes, the lowest first), the head, which is JSON and names the files and
their sizes, and then the files one behind the other. Nothing of it is trusted: names become plain ones, sizes have to
add up, and what is written is never more than the head has promised.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from runtime.errors import InputError, Sam2Error
from runtime.files.scratch import scratch_folder
from runtime.files.strict_json import MAX_TEXT, Fault, Integer, Object, Rule
from runtime.io.read import read_volume
from runtime.io.size_limit import Take, no_larger_than
from runtime.serve.choices import (
    MOST_CHOICES,
    SeveralVolumes,
    VolumeChoice,
    choices_of,
    printable,
)
from runtime.serve.serving import check_json
from runtime.serve.shown_volume import ShownVolume

MAX_FILES = 5000
MAX_HEAD_BYTES = 4 << 20
_LENGTH_BYTES = 4
_CHUNK_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 62
# A header names its data files, so that what is plain stays as it is.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ .()+-]{0,120}")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,6}){0,2}$")

Read = Callable[[Take], ShownVolume]
"""Reads a volume, and tells before there is room for its voxels how many bytes they take."""


class _Name(Rule):
    """A file's name, of whatever letters: systems put no-break spaces and joiners into names, and even line ends."""

    def check(self, value: object, where: str) -> None:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
            raise Fault(f"{where} is no name of up to {MAX_TEXT} characters")


class _Files(Rule):
    """The list of files in a head."""

    _each = Object({"name": _Name(), "size": Integer(0, _MAX_FILE_BYTES)})

    def check(self, value: object, where: str) -> None:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_FILES:
            count = len(value) if isinstance(value, list) else "no"
            raise Fault(f"{where} is a list of {count} files; wanted 1 to {MAX_FILES}")
        for number, item in enumerate(value):
            self._each.check(item, f"{where}[{number}]")


_HEAD = Object({"files": _Files()})


@asynccontextmanager
async def received(body: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Read]:
    """Takes a body (see above), and gives what reads the volume in its files, which lie there for that long.

    Args:
        body: in pieces of any size.
        max_bytes: of all files together, and of the voxels in them.

    Raises InputError for a body that contradicts itself or is too large, and as read_volume does; messages name the
    files as the user does.
    """
    with scratch_folder() as folder:
        files = _Received(folder, max_bytes)
        pending = bytearray()
        async for piece in body:
            pending += piece
            if len(pending) >= _CHUNK_BYTES:
                await to_thread.run_sync(files.take, bytes(pending))
                pending.clear()
        await to_thread.run_sync(files.take, bytes(pending))
        files.end()
        yield lambda take: _read(folder, files.paths, files.names, max_bytes, take)


class _Received:
    """Files as they come in.

    Args:
        folder: for them.
        max_bytes: of all together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._head = bytearray()
        self._to_come: list[tuple[Path, int]] | None = None
        self.paths: list[Path] = []
        self.names: list[str] = []

    def take(self, data: bytes) -> None:
        """Takes the next bytes. Raises InputError for more than was promised, OSError for a full disk."""
        rest = memoryview(data)
        if self._to_come is None:
            rest = self._take_head(rest)
        while self._to_come:
            path, size = self._to_come[0]
            part, rest = rest[:size], rest[size:]
            with path.open("ab") as file:
                _write(file, part)
            if len(part) < size:
                self._to_come[0] = path, size - len(part)
                return
            self._to_come.pop(0)
        if len(rest):
            raise InputError("found more bytes than the files are said to have; send them again")

    def end(self) -> None:
        """Raises InputError unless every promised byte has come."""
        if self._to_come is None or self._to_come:
            raise InputError("the files came incomplete; send them again")

    def _take_head(self, data: memoryview) -> memoryview:
        """What is left of `data` once the head is whole."""
        self._head += data
        if len(self._head) < _LENGTH_BYTES:
            return data[:0]
        length = int.from_bytes(self._head[:_LENGTH_BYTES], "little")
        if length > MAX_HEAD_BYTES:
            raise InputError(f"found a head of {length} bytes; wanted at most {MAX_HEAD_BYTES}")
        end = _LENGTH_BYTES + length
        if len(self._head) < end:
            return data[:0]
        head, rest = bytes(self._head[_LENGTH_BYTES:end]), bytes(self._head[end:])
        self._head.clear()
        self._plan(head)
        return memoryview(rest)

    def _plan(self, head: bytes) -> None:
        content = check_json(head, _HEAD)
        sizes = [file["size"] for file in content["files"]]
        if sum(sizes) > self._max_bytes:
            raise InputError(
                f"the files have {sum(sizes) >> 20} MiB; this server takes {self._max_bytes >> 20}"
            )
        self.names = [printable(file["name"]) for file in content["files"]]
        self.paths = [self._folder / name for name in plain_names(self.names)]
        self._to_come = list(zip(self.paths, sizes, strict=True))


def plain_names(names: Sequence[str]) -> list[str]:
    """Names that files can have here, all different: the user's where they are plain, else a number and a suffix."""
    plain: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        last = re.split(r"[/\\]", name)[-1]
        if not _PLAIN_NAME.fullmatch(last) or last.lower() in taken:
            suffix = _SUFFIX.search(last)
            last = (
                f"_file-{number:05d}{suffix.group() if suffix else ''}"  # no plain name begins so
            )
        plain.append(last)
        taken.add(last.lower())
    return plain


def _write(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _read(
    folder: Path, paths: Sequence[Path], names: Sequence[str], max_bytes: int, take: Take
) -> ShownVolume:
    try:
        with no_larger_than(max_bytes, take):
            chosen = _choose(folder, paths, names)
            volume = read_volume(chosen.path, chosen.series)
            name = chosen.title
            if chosen.path in paths:
                name = names[list(paths).index(chosen.path)]
            return ShownVolume.of(volume, name or f"{len(volume.frames)} DICOM files")
    except Sam2Error as error:
        error.args = (_in_the_users_words(str(error), folder, paths, names),)
        raise


def _choose(folder: Path, paths: Sequence[Path], names: Sequence[str]) -> VolumeChoice:
    """What there is to read. Raises SeveralVolumes where somebody has to choose."""
    if len(paths) == 1:
        return VolumeChoice(paths[0], (), "")
    theirs = dict(zip(paths, names, strict=True))
    choices = [
        replace(choice, title=theirs[choice.path]) if choice.title == choice.path.name else choice
        for choice in choices_of(folder, paths)
    ]
    possible = [choice for choice in choices if not choice.why_not]
    if len(possible) > 1:
        described = [choice.describe(paths) for choice in choices[:MOST_CHOICES]]
        raise SeveralVolumes(len(choices), described)
    return possible[0] if possible else VolumeChoice(folder, (), "")


def _in_the_users_words(
    text: str, folder: Path, paths: Sequence[Path], names: Sequence[str]
) -> str:
    for path, name in zip(paths, names, strict=True):
        if str(path) in text:
            text = text.replace(str(path), name)
    return text.replace(f"{folder}/", "").replace(str(folder), "what was sent")
