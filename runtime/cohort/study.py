"""A study of a cohort: where it lies, what is asked of it, and how both are known again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InputError, PromptError
from runtime.files.strict_json import parse
from runtime.io.dicom.codes import Code
from runtime.io.dicom.query import Choice
from runtime.io.read import NIFTI_SUFFIXES, SUFFIXES
from runtime.prompts.prompt_file import (
    NAMES,
    Calls,
    group,
    named_in,
    parse_box,
    parse_point,
)
from runtime.prompts.prompts import Prompt, check_object_id
from runtime.prompts.recist import Recist, parse_recist

FILE, ROWS, LABELS, SERVER, NOTHING = "file", "rows", "labels", "server", "nothing"
"""Where the prompts of a study are: in a JSON file, rows of a table, a label map or DICOM Segmentation, the DICOM
Segmentation of the series that is on the server too, or nowhere."""
WRONG = "wrong"
PARSERS: dict[str, Callable[[str], Prompt]] = {"box": parse_box, "point": parse_point}
KINDS = (*PARSERS, "recist", *NAMES, WRONG)

Row = tuple[str, str, str]
"""Of a table: object id or nothing, kind of prompt (box, point, recist), and the prompt as the command line has it; or
`WRONG` and what is wrong with the row. Behind a prompt there may be its object's code or category, by these names."""


@dataclass(frozen=True, slots=True)
class StudyPrompts:
    """What is asked of a study.

    Attributes:
        source: `FILE`, `ROWS`, `LABELS`, `SERVER` or `NOTHING`.
        text: a path, the rows as JSON, or nothing; of `NOTHING` the folder of DICOM slices among which the study lies.
    """

    source: str
    text: str = ""

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> StudyPrompts:
        """From rows of a table."""
        return cls(ROWS, json.dumps(rows, separators=(",", ":")))

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read for it."""
        return (Path(self.text),) if self.source in (FILE, LABELS) else ()

    @property
    def is_many_files(self) -> bool:
        """Whether the file may name others, as prompts do their masks."""
        return self.source == FILE


@dataclass(frozen=True, slots=True)
class Study:
    """One study as it was found.

    Attributes:
        name: its path below the input, without the suffix; unique in a cohort.
        path: the volume's file, or the folder of its slices.
        asked: its prompts.
        size_bytes: of its files, by which the largest are done first.
        stamp: changes when a file of its own or of its prompts does: a digest of names, sizes and times.
    """

    name: str
    path: Path
    asked: StudyPrompts
    size_bytes: int
    stamp: str


def stamped(name: str, path: Path, asked: StudyPrompts) -> Study:
    """A study with its size and stamp; what is not there has size 0, and is found missing when it is read."""
    size, marks = 0, [str(path), asked.source, asked.text if asked.source == ROWS else ""]
    for file in files_of(path):
        try:
            status = file.stat()
        except OSError:
            continue
        size += status.st_size
        marks.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    for file in asked.files:
        beside = named_in(file) if asked.is_many_files else ()
        for each in (file, *beside):
            try:
                status = each.stat()
            except OSError:
                continue
            marks.append(f"{each} {status.st_size} {status.st_mtime_ns}")
    stamp = hashlib.sha256("\0".join(marks).encode("utf-8", "surrogateescape")).hexdigest()
    return Study(name, path, asked, size, stamp)


def files_of(path: Path) -> list[Path]:
    """The files that a study is read from, in the order of names; of a header, whatever else bears its name too.

    It is empty where there is nothing, or nothing that may be looked at.
    """
    try:
        if path.is_dir():
            own = [file for file in path.iterdir() if not file.name.startswith(".")]
            return sorted(file for file in own if file.is_file())
        if path.suffix.lower() in (".mhd", ".nhdr"):
            start = stem_of(path.name)
            own = [file for file in path.parent.iterdir() if file.name.startswith(start)]
            return sorted(file for file in own if file.is_file())
        return [path] if path.is_file() else []
    except OSError:
        return []


def fitting(path: Path, series: Choice | None, affine: str | None) -> dict[str, Any]:
    """What of a cohort's choices is about a study: that of a series about DICOM, that of an affine about NIfTI."""
    is_dicom = path.is_dir() or path.suffix.lower() == ".dcm"
    is_nifti = path.name.lower().endswith(NIFTI_SUFFIXES)
    return {"series": series if is_dicom else None, "affine": affine if is_nifti else None}


def stem_of(name: str) -> str:
    """A file's name without the suffix of a volume."""
    suffix = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)] or name


def content_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            inside = hashlib.file_digest(stream, "sha256")
        name = os.fsencode(path.name)
        digest.update(len(name).to_bytes(4, "big") + name + inside.digest())
    return digest.hexdigest()


def calls_of_rows(text: str) -> tuple[Calls, tuple[tuple[int, Recist], ...]]:
    """Prompts, and RECIST lines by object, from rows as `StudyPrompts` has them.

    Rows without an object are objects of their own, numbered from the lowest number that is free. Raises PromptError.
    """
    prompts: dict[int, list[Prompt]] = {}
    lines: dict[int, Recist] = {}
    for object_id, kind, form in _numbered(text):
        if kind in NAMES:
            continue
        if object_id in lines or (kind == "recist" and object_id in prompts):
            raise PromptError(
                f"object {object_id} has a RECIST line and another prompt; wanted one of them"
            )
        if kind == "recist":
            lines[object_id] = parse_recist(form)
        else:
            prompts.setdefault(object_id, []).append(PARSERS[kind](form))
    calls = [call for object_id, own in prompts.items() for call in group(own, object_id)]
    return calls, tuple(lines.items())


def codes_of_rows(text: str) -> tuple[dict[int, Code], dict[int, Code]]:
    """Codes and categories by object, from the same rows. Raises PromptError where an object has two."""
    found: dict[str, dict[int, Code]] = {name: {} for name in NAMES}
    for object_id, kind, form in _numbered(text):
        if kind not in NAMES:
            continue
        try:
            code = Code.parse(form)
        except InputError as error:
            raise PromptError(f"object {object_id}: {error}") from error
        if found[kind].setdefault(object_id, code) != code:
            raise PromptError(
                f"object {object_id} has the {kind} {found[kind][object_id]} and {code}; wanted one"
            )
    return found["code"], found["category"]


def _numbered(text: str) -> Iterator[tuple[int, str, str]]:
    """Rows with their object's number: of those without, the lowest that is free; of names, that of the row before."""
    rows = _kept_rows(text)
    taken = {row[0] for row in rows}
    free = (number for number in range(1, 1 << 16) if str(number) not in taken)
    object_id = 0
    for given, kind, form in rows:
        if kind == WRONG:
            raise PromptError(form)
        if given:
            object_id = _object_id(given)
        elif kind not in NAMES:
            object_id = next(free)
        yield object_id, kind, form


def _kept_rows(text: str) -> list[Row]:
    """Rows as `StudyPrompts.of_rows` wrote them. Raises PromptError where bits of them have flipped."""
    try:
        rows: list[Row] = [(given, kind, form) for given, kind, form in parse(text)]
        is_right = all(
            kind in KINDS and {type(given), type(form)} == {str} for given, kind, form in rows
        )
    except (ValueError, TypeError):
        is_right = False
    if not is_right:
        raise PromptError(
            "its rows are damaged in the cohort's ledger; give the command again, which reads the table anew"
        )
    return rows


def _object_id(text: str) -> int:
    try:
        object_id = int(text.removesuffix(".0"))  # as pandas has it where others are missing
    except ValueError:
        raise PromptError(f"object {text!r} is no whole number") from None
    check_object_id(object_id)
    return object_id


def check_prompted(asked: StudyPrompts, name: str) -> None:
    """Raise InputError where nothing is asked of a study."""
    if asked.source == NOTHING:
        folder = asked.text
        slices = f"; if the DICOM slices beside it are meant, put {folder}.json beside their folder {folder}, or"
        raise InputError(
            f"{name} has no prompts; put {Path(name).name}.json beside it (as for medsam2 segment --prompts), or a "
            f"label map {Path(name).name}.labels.nii.gz, or name it in a table (--table)"
            f"{f'{slices} name that in a table' if folder else ''}"
        )
