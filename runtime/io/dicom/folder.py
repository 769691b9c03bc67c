"""Which files of a folder are the slices of a series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
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
    IMAGE_TYPE,
    PART,
    PARTS,
    POSITION,
    SERIES,
    SERIES_NUMBER,
    SOP_CLASS,
    Header,
    is_image_class,
    read_header,
)
from runtime.io.dicom.query import KEYWORDS, Choice, is_asked
from runtime.io.dicom.transfer_syntax import begins_as_dicom

_SUFFIX = ".dcm"
# Secondary captures (PS3.4 table B.5-1): dose reports and screens of viewers are such, whatever modality they name.
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
# Of an image type, the third value of a scout (PS3.3 C.8.2.1.1.1, C.8.3.1.1.1).
_LOCALIZER = "LOCALIZER"
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


def series_headers(folder: Path, series: Choice | None) -> list[Header]:
    """Headers of the one series in a folder, or of the one that is chosen, in the order of their names.

    Localisers and secondary captures, such as dose reports, are left alone where another series is there, and so are
    objects that are no images of a patient, files of other kinds, folders, pipes and hidden files. What is damaged, or
    is named as the slices are and is no slice, is refused: without it the series could still look whole. Of files that
    are equal to the last byte the first counts, since folders are often exported twice.

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
    return _without_copies(_chosen(folder, headers_of, series))


def _chosen(
    folder: Path, headers_of: Mapping[str, list[Header]], series: Choice | None
) -> list[Header]:
    """Of all series the one that is meant. Raises SeriesError where none is, or several are."""
    asked = f"series {series}"
    if isinstance(series, str):
        found = {uid: headers for uid, headers in headers_of.items() if uid == series}
    elif series is None:
        found = dict(headers_of)
    else:
        asked = "series that is " + " and ".join(
            f"{name}={value}" for name, value in series.items()
        )
        found = {uid: own for uid, own in headers_of.items() if says(own[0].path, series)}
    if not found:
        raise SeriesError(f"{folder} holds no {asked}; it holds:\n{_listing(headers_of)}")
    if len(found) > 1 and (
        scans := {u: own for u, own in found.items() if any(map(_is_scan, own))}
    ):
        found = scans
    if len(found) > 1:
        raise SeriesError(
            f"{folder} holds {len(found)} series{' that are so' if series else ''}; wanted one; choose with series= "
            f"(--series UID, or --series 'SeriesDescription=*venous*'), or put each into a folder of its own:\n"
            f"{_listing(found)}"
        )
    return next(iter(found.values()))


def _is_scan(header: Header) -> bool:
    """Whether an image is a slice of a scan of a patient, by its class and type."""
    kinds = text(header.dataset, IMAGE_TYPE).split("\\")
    is_capture = header.sop_class.startswith(_CAPTURES)
    return is_image_class(header.sop_class) and not is_capture and _LOCALIZER not in kinds[2:3]


def may_be_scan(path: Path, series: Choice | None = None) -> bool:
    """Whether a file of DICOM may be a slice of a scan, or of such a series, by its header alone.

    A damaged one may be of a scan, whose reader says so, but is of no series. Raises OSError.
    """
    try:
        header = read_header(path, (IMAGE_TYPE, SOP_CLASS, SERIES))
    except SeriesError:
        return series is None
    if header is None or not _is_scan(header):
        return False
    if isinstance(series, str):
        return header.series == series
    return series is None or says(path, series)


def says(path: Path, query: Mapping[str, str]) -> bool:
    """Whether an image's header says what a query asks for. Raises SeriesError where it cannot be read, and OSError."""
    header = read_header(path, [int(KEYWORDS[name], 16) for name in query])
    said = {name: header.words(int(KEYWORDS[name], 16)) if header else "" for name in query}
    return is_asked(said, query)


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


def _listing(series: Mapping[str, list[Header]]) -> str:
    return ";\n".join(f"  {uid}  {_summary(headers)}" for uid, headers in sorted(series.items()))


def _summary(headers: list[Header]) -> str:
    count = f"{len(headers)} slice" + "s" * (len(headers) != 1)
    header = headers[0]
    try:
        scan_format(header)
    except (SeriesError, VolumeError):
        return f"{count}, not an image that can be segmented"
    number = f", number {header.words(SERIES_NUMBER)}" if header.words(SERIES_NUMBER) else ""
    return f"{header.modality or 'modality unknown'}, {header.description!r}{number}, {count}"
