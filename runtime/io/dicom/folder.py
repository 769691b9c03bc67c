"""Which files of a folder are the slices of a series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from runtime.errors import SeriesError, VolumeError
from runtime.files.plain_file import open_plain
from runtime.io.dicom.elements import numbers, text, whole
from runtime.io.dicom.format import PixelFormat, check_grey, read_format
from runtime.io.dicom.header import (
    CONCATENATION,
    FRAMES,
    PART,
    PARTS,
    POSITION,
    SOP_CLASS,
    Header,
    is_image_class,
    read_header,
)
from runtime.io.dicom.transfer_syntax import begins_as_dicom

_SUFFIX = ".dcm"
# A number in a name, decimal or hexadecimal.
_NUMBER = re.compile(r"[0-9A-Fa-f]*\d[0-9A-Fa-f]*")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a folder holds, hidden files and what is below it apart.

    Attributes:
        series: headers by series instance UID, in the order of their names.
        doubtful: files that are no DICOM, and why.
        damaged: files that begin as DICOM does and cannot be read, and what is wrong.
    """

    series: dict[str, list[Header]]
    doubtful: list[tuple[Path, str]]
    damaged: list[tuple[Path, SeriesError]]


def look_into(folder: Path) -> Holdings:
    """All DICOM images of a folder, by series. Raises OSError where it cannot be read."""
    found = Holdings({}, [], [])
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                found.doubtful.append((path, "a link to nothing"))
            continue
        try:
            if not begins_as_dicom(path):
                found.doubtful.append((path, "no DICOM"))
            elif header := read_header(path):
                found.series.setdefault(header.series, []).append(header)
        except OSError as error:
            found.doubtful.append((path, str(error)))
        except SeriesError as error:
            found.damaged.append((path, error))
    return found


def series_headers(folder: Path, series: str | None) -> list[Header]:
    """Headers of the one series in a folder, or of the one with that UID, in the order of their names.

    Files of other kinds, folders, pipes and hidden files beside them are left alone. What is damaged, or is named as
    the slices are and is no slice, is refused: without it the series could still look whole. Of files that are equal to
    the last byte the first counts, since folders are often exported twice.

    Raises SeriesError; OSError where the folder cannot be read.
    """
    found = look_into(folder)
    headers_of = found.series
    if found.damaged:
        raise found.damaged[0][1]
    for path, why in seeming_slices(
        found, (header.path.name for headers in headers_of.values() for header in headers)
    ):
        raise SeriesError(
            f"{path} cannot be read as DICOM: cut short or damaged ({why}); copy it again, or take it out of the "
            "folder"
        )
    if not headers_of:
        raise SeriesError(
            f"{folder} holds no DICOM images; wanted the folder that directly holds the slices, "
            "or the name of a volume file"
        )
    if series is None and len(headers_of) > 1:
        raise SeriesError(
            f"{folder} holds {len(headers_of)} series; wanted one; choose with series= (--series UID), or, in a "
            f"cohort, put each into a folder of its own:\n{_listing(headers_of)}"
        )
    if series is not None and series not in headers_of:
        raise SeriesError(f"{folder} holds no series {series}; it holds:\n{_listing(headers_of)}")
    return _without_copies(headers_of[next(iter(headers_of)) if series is None else series])


def frame_count(path: Path) -> int:
    """How many frames an image of a patient has, by its header alone; 0 for whatever else."""
    try:
        header = read_header(path, (FRAMES, SOP_CLASS))
        if header is None or not is_image_class(header.sop_class):
            return 0
        return int((numbers(header.dataset, FRAMES, path) or (1.0,))[0])
    except (SeriesError, OSError):
        return 0


def scan_format(header: Header) -> PixelFormat:
    """How a grey image of a patient is stored. Raises SeriesError or VolumeError for whatever else, and for parts."""
    if not is_image_class(header.sop_class):
        raise SeriesError(
            f"{header.path} is not an image of a patient ({header.modality}); wanted slices"
        )
    layout = read_format(header)
    check_grey(header, layout)
    _check_undivided(header)
    return layout


def _check_undivided(header: Header) -> None:
    """Raise SeriesError for one of several files that an object was divided into (PS3.3 C.7.6.16.1.1)."""
    if CONCATENATION not in header.dataset:
        return
    part, parts = (
        whole(header.dataset, tag, header.path) if tag in header.dataset else 0
        for tag in (PART, PARTS)
    )
    if parts != 1:
        raise SeriesError(
            f"{header.path} is part {part or '?'} of {parts or '?'} of a concatenation; wanted the whole object in one "
            "file; put its parts together first"
        )


def _without_copies(headers: list[Header]) -> list[Header]:
    sizes = [(text(header.dataset, POSITION), header.path.stat().st_size) for header in headers]
    count = Counter(sizes)
    distinct: dict[object, Header] = {}
    for header, size in zip(headers, sizes, strict=True):
        distinct.setdefault(_digest(header.path) if count[size] > 1 else header.path, header)
    return list(distinct.values())


def _digest(path: Path) -> bytes:
    with open_plain(path) as stream:
        return file_digest(stream, "sha256").digest()


def seeming_slices(found: Holdings, slices: Iterable[str]) -> list[tuple[Path, str]]:
    """Files that are no DICOM and look as if they should be: they are named as slices are. And why they are none."""
    shapes = {name_shape(name) for name in slices}
    seeming = []
    for path, why in found.doubtful:
        is_link = path.is_symlink() and not path.exists()
        if name_shape(path.name) in shapes or (path.suffix.lower() == _SUFFIX and not is_link):
            seeming.append((path, why))
    return seeming


def name_shape(name: str) -> str:
    """A name with its numbers, decimal or hexadecimal, made alike: slices of one series mostly share it."""
    return _NUMBER.sub("#", name)


def _listing(series: dict[str, list[Header]]) -> str:
    return "\n".join(f"  {uid}  {_summary(headers)}" for uid, headers in sorted(series.items()))


def _summary(headers: list[Header]) -> str:
    count = f"{len(headers)} slice" + "s" * (len(headers) != 1)
    header = headers[0]
    try:
        scan_format(header)
    except (SeriesError, VolumeError):
        return f"{count}, not an image that can be segmented"
    return f"{header.modality or 'modality unknown'}, {header.description!r}, {count}"
