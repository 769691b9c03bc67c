"""What can be opened of files that came together: series of DICOM, objects of many frames, other volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InputError, SeriesError, VolumeError
from runtime.io.dicom.folder import Holdings, look_into, scan_format, seeming_slices
from runtime.io.dicom.header import Header
from runtime.io.read import SUFFIXES

_HEADERS = tuple(suffix for suffix in SUFFIXES if suffix != ".dcm")
_DETACHED = (".nhdr", ".mhd")  # name files that hold their voxels
_LONGEST_TITLE = 200
MOST_CHOICES = 200  # that anybody reads through
NO_SCAN = "cannot be segmented"


@dataclass(frozen=True, slots=True)
class VolumeChoice:
    """One volume.

    Attributes:
        path: of its file, or of the folder for a series of slices.
        files: that have to be there for it: its own, and what may be damaged slices of it.
        title: the series' description, or the name of its file.
        modality: DICOM's word, "" where there is none.
        slices: how many; None where nobody has looked.
        size: rows and columns of each; None likewise.
        series: its UID, where the path is a folder.
        why_not: it cannot be opened, "" if it can.
    """

    path: Path
    files: tuple[Path, ...]
    title: str
    modality: str = ""
    slices: int | None = None
    size: tuple[int, int] | None = None
    series: str | None = None
    why_not: str = ""

    def describe(self, paths: Sequence[Path]) -> dict[str, Any]:
        """What the page is told; `files` are numbers in `paths`, from 0."""
        numbers = {path: number for number, path in enumerate(paths)}
        return {
            "title": self.title,
            "modality": self.modality,
            "slices": self.slices,
            "size": self.size,
            "files": sorted(numbers[path] for path in self.files),
            "why_not": self.why_not,
        }


class SeveralVolumes(InputError):
    """Files that hold more than one volume.

    Args:
        count: of volumes.
        choices: the first of them, as described for the page.
    """

    def __init__(self, count: int, choices: list[dict[str, Any]]) -> None:
        listed = "; ".join(
            f"{choice['title']!r}" + (f", {choice['slices']} slices" if choice["slices"] else "")
            for choice in choices[:5]
        )
        super().__init__(f"found {count} volumes ({listed}); wanted one: send its files alone")
        self.choices = choices


def printable(name: str) -> str:
    """A name as it can be shown and sent, with spaces for what cannot."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def choices_of(folder: Path, paths: Sequence[Path]) -> list[VolumeChoice]:
    """All volumes in files that lie in a folder: those that can be opened first, the largest first.

    Raises OSError where they cannot be read.
    """
    found = look_into(folder)
    dicom = {header.path for headers in found.series.values() for header in headers}
    volumes = [p for p in paths if p not in dicom and p.name.lower().endswith(_HEADERS)]
    choices = [_of_file(path, paths, dicom, volumes) for path in volumes]
    for headers in found.series.values():
        choices += _of_series(folder, found, headers)
    return sorted(choices, key=lambda choice: (choice.why_not != "", -(choice.slices or 0)))


def _of_file(
    path: Path, paths: Sequence[Path], dicom: set[Path], volumes: Sequence[Path]
) -> VolumeChoice:
    files = [path]
    if path.name.lower().endswith(_DETACHED):
        files += [other for other in paths if other not in dicom and other not in volumes]
    return VolumeChoice(path, tuple(files), path.name)


def _of_series(folder: Path, found: Holdings, headers: Sequence[Header]) -> Iterator[VolumeChoice]:
    """A series is one volume; but objects of many frames are one each, beside which slices are another."""
    doubtful = [path for path, _ in found.damaged]
    doubtful += [path for path, _ in seeming_slices(found, (h.path.name for h in headers))]
    scans, others = [], []
    for header in headers:
        try:
            layout = scan_format(header)
        except (SeriesError, VolumeError):
            others.append(header)
            continue
        size = layout.rows, layout.columns
        if layout.frames == 1 or len(headers) == 1:
            scans.append((header, layout.frames, size))
        else:
            yield _choice(header, header.path, [header.path], layout.frames, size)
    if scans:
        (header, frames, size), count = scans[0], len(scans)
        files = [each.path for each, *_ in scans] + [each.path for each in others] + doubtful
        is_alone = count == 1 and (frames > 1 or len(headers) > 1)
        slices = frames if count == 1 else count
        series = None if is_alone else header.series
        yield _choice(header, header.path if is_alone else folder, files, slices, size, series)
    elif others:
        files = [header.path for header in others]
        yield _choice(others[0], folder, files, len(others), None, others[0].series, NO_SCAN)


def _choice(
    header: Header,
    path: Path,
    files: Sequence[Path],
    slices: int,
    size: tuple[int, int] | None,
    series: str | None = None,
    why_not: str = "",
) -> VolumeChoice:
    title = printable(header.description)
    return VolumeChoice(
        path,
        tuple(dict.fromkeys(files)),
        title.strip()[:_LONGEST_TITLE],
        header.modality or "",
        slices,
        size,
        series,
        why_not,
    )
