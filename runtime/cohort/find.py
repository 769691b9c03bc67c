"""Studies in a folder tree: volume files and folders of DICOM slices, each with what is asked of it beside it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runtime.cohort.study import (
    FILE,
    LABELS,
    NOTHING,
    SERVER,
    Study,
    StudyPrompts,
    stamped,
    stem_of,
)
from runtime.errors import InputError, MissingInput
from runtime.files.plain_file import read_plain
from runtime.io.dicom import begins_as_dicom, frame_count
from runtime.io.dicom.folder import may_be_scan
from runtime.io.dicom.query import Choice
from runtime.io.read import SUFFIXES
from runtime.prompts.prompt_file import MOST_BYTES

LABELS_END = ".labels"
LABEL_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm")
PROMPTS_WITHIN = "prompts.json"  # of a folder of slices, within it
FIRST_FILES = 8  # of a folder, that are looked into: what is no DICOM among so many is no series
# None, what follows the last point of a UID, or that of a slice.
_DICOM_SUFFIX = re.compile(r"|\.\d+|\.(dcm|ima)", re.IGNORECASE)
VOLUME_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != ".dcm")


def find_studies(root: Path, series: Choice | None = None) -> Iterator[Study]:
    """Every study below a folder, folder by folder in the order of names; hidden ones are left alone.

    A volume `a/ct.nii.gz` is asked what `a/ct.json` says (as for `medsam2 segment --prompts`), or, where there are no
    prompts, for the objects of the label map `a/ct.labels.nii.gz` (.nii, .nrrd, .mha; .dcm of DICOM). Of a folder
    `a/series` of DICOM slices they are called `a/series.json`, `a/series/prompts.json` and `a/series.labels...`. An
    .npz with labels of its own (`gts`) needs neither. Among volumes slices are a study only where something is asked of
    them, and so it is with reports, presentation states, localisers and secondary captures without a scan, and, where
    `series` says which are meant, with DICOM of others. Links to folders are not followed.

    Raises MissingInput if there is no such folder.
    """
    if not root.is_dir():
        raise MissingInput(f"{root} is not a folder; wanted one with studies below it")
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        names = sorted(name for name in files if not name.startswith("."))
        files_of_volumes = [name for name in names if _is_volume(name)]
        volumes = files_of_volumes or _objects(here, names, here == root)
        is_series = here != root and (not volumes or bool(files_of_volumes))
        asked_here = asked_beside(here)
        is_asked = asked_here.source != NOTHING
        is_series = is_series and _holds_slices(here, names, series, is_asked)
        stems = Counter(map(stem_of, volumes))
        for name in volumes:
            stem = stem_of(name)
            path = here / name
            called = stem if stems[stem] == 1 and stem not in folders else name
            asked = asked_beside(path)
            if asked == StudyPrompts(NOTHING):
                if not files_of_volumes and series and not may_be_scan(path, series):
                    continue
                asked = StudyPrompts(NOTHING, here.name if is_series else "")
            yield _study(root, here / called, path, asked)
        if is_series and (is_asked or not volumes):
            yield _study(root, here, here, asked_here)


def asked_beside(path: Path) -> StudyPrompts:
    """What the files beside a study ask of it."""
    stem = stem_of(path.name)
    prompts = [path.parent / f"{stem}.json"]
    if path.is_dir():
        prompts.append(path / PROMPTS_WITHIN)
    labels = [path.parent / f"{stem}{LABELS_END}{suffix}" for suffix in LABEL_SUFFIXES]
    drawn = next((file for file in labels if file.is_file()), None)
    for file in prompts:
        if file.is_file() and not (drawn and _tells_of_something_else(file)):
            return StudyPrompts(FILE, str(file))
    if drawn:
        return StudyPrompts(LABELS, str(drawn))
    if (
        path.suffix.lower() == ".npz"
    ):  # with labels of its own, or it will be said that there are none
        return StudyPrompts(LABELS, str(path))
    return StudyPrompts(NOTHING)


def _tells_of_something_else(file: Path) -> bool:
    """Whether a file is JSON, but no prompts: converters of DICOM put what they know of a scan beside it."""
    try:
        content = json.loads(read_plain(file, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it in earnest says what is wrong
    return isinstance(content, dict) and "objects" not in content


def located(root: Path, name: str) -> tuple[str, Path]:
    """What a table's study is called in a cohort, as `find_studies` calls it, and where it lies.

    `name` is its path below the input, with its suffix or without; one that is not there is a study too, which will
    fail. Raises InputError for a name that leads out of the input.
    """
    written = Path(name)
    if written.is_absolute() or ".." in written.parts or not written.parts or "\0" in name:
        raise InputError(f"found the study {name!r}; wanted its path below {root}")
    path = root / written
    if not _exists(path):
        ends = [path.with_name(f"{path.name}{suffix}") for suffix in SUFFIXES]
        path = next(filter(_exists, ends), path)
    if _exists(path) and path.is_file():
        stem = path.with_name(stem_of(path.name))
        alike = [stem, *(path.with_name(f"{stem.name}{suffix}") for suffix in SUFFIXES)]
        if sum(map(_exists, alike)) <= 1:
            return stem.relative_to(root).as_posix(), path
    return path.relative_to(root).as_posix(), path


def addressed(address: str) -> tuple[str, Path]:
    """The same of a series of a DICOMweb server, which is called by its UIDs."""
    written = Path(address)
    if written.is_absolute() or ".." in written.parts or not written.parts or "\0" in address:
        raise InputError(f"found the series {address!r}; wanted STUDY-UID/SERIES-UID or SERIES-UID")
    return written.as_posix(), written


def study_on_server(address: str, asked: StudyPrompts) -> Study:
    """A series of a DICOMweb server: what has UIDs does not change, and its size is not known here."""
    return stamped(*addressed(address), asked)


def searched_studies(pages: Iterable[Sequence[str]]) -> Iterator[list[Study]]:
    """The series of each page of a search, which are asked for what their segmentations on the server show."""
    for page in pages:
        yield [study_on_server(address, StudyPrompts(SERVER)) for address in page]


def _study(root: Path, called: Path, path: Path, asked: StudyPrompts) -> Study:
    return stamped(called.relative_to(root).as_posix(), path, asked)


def _is_volume(name: str) -> bool:
    is_labels = stem_of(name).lower().endswith(LABELS_END)
    return name.lower().endswith(VOLUME_SUFFIXES) and not is_labels


def _objects(folder: Path, names: list[str], is_root: bool) -> list[str]:
    """The enhanced objects of a folder, each of which is a volume; one alone is a study as its folder is.

    What begins with an object of one frame is a folder of slices, into which nobody looks further.
    """
    found: list[str] = []
    for number, name in enumerate(_likely_first(names)):
        if number == FIRST_FILES and not found:
            return found
        if stem_of(name).lower().endswith(LABELS_END) or not _is_dicom(folder / name):
            continue
        if (count := frame_count(folder / name)) == 1:
            return found
        found += [name] * (count > 1)
    return sorted(found) if len(found) > 1 or is_root else []


def _holds_slices(folder: Path, names: list[str], series: Choice | None, is_asked: bool) -> bool:
    """Whether a folder holds slices of a scan, or of such a series; where something is asked of it, any DICOM.

    Of files that are none, so many are looked at before it is given up.
    """
    named = [name for name in names if not stem_of(name).lower().endswith(LABELS_END)]
    others = 0
    for name in _likely_first(named):
        if not _is_dicom(folder / name):
            others += 1
            if others == FIRST_FILES:
                return False
        elif is_asked or may_be_scan(folder / name, series):
            return True
    return False


def _likely_first(names: list[str]) -> list[str]:
    """Names that DICOM mostly has, and then others, such as pictures and notes, however many."""
    return sorted(names, key=lambda name: not _DICOM_SUFFIX.fullmatch(Path(name).suffix))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for any file
        return False


def _is_dicom(path: Path) -> bool:
    try:
        return path.is_file() and begins_as_dicom(path)
    except OSError:
        return False


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); mend it or move it away")
