"""Prompts from a table: CSV or Parquet, a row for each prompt, in any order."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import chain, groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from runtime.cohort.find import addressed, located
from runtime.cohort.study import WRONG, Row, Study, StudyPrompts, stamped
from runtime.errors import InputError, MissingInput
from runtime.files.plain_text import NOT_UTF16, is_utf16
from runtime.prompts.prompt_file import NAMES

STUDY, OBJECT, SLICES = "study", "object", ("z", "slice")
KINDS = ("box", "point", "recist")
NUMBERS = {"box": ("y0", "y1", "x0", "x1"), "point": ("y", "x")}
ALONE = (*SLICES, *NUMBERS["box"], *NUMBERS["point"])
OURS = {STUDY, OBJECT, *KINDS, *ALONE, *NAMES}
SEVERAL = ";"  # between the points of one cell
PARTED_BY = re.compile(r"sep=(.?)\r?\n?", re.IGNORECASE)
"""A first line by which Excel knows what stands between the columns; it is taken there alone."""
PARTS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".tsv", ".txt")
ROWS_AT_ONCE = 10_000


def read_table(path: Path, root: Path | None) -> Iterator[Study]:
    """The studies that a table names, each with all its prompts; memory does not grow with the table.

    Columns, of which others are left alone: `study`, the path below `root`, or, without one, the UIDs of a series;
    `object`, a number, without which each row is an object of its own; `z`, the slice; and one of `box` (y0,y1,x0,x1),
    `point` (y,x or y,x,- and several with ; between), `recist` (y0,x0,y1,x1), as the command line of `medsam2 segment`
    has them, whose slice comes first where there is no `z`. Numbers may have columns of their own: y0, y1, x0, x1, or
    y, x. What an object is may stand in `code` and `category`. Capitals do not matter. In CSV a first line `sep=;` says
    what stands between the columns, as in Excel, and empty lines before the names of the columns are passed over.

    A study may be called in several ways: all its rows are one study's. A row that holds no prompt, or two, fails its
    study; one that holds nothing at all is left alone. Raises MissingInput or InputError for what is no table, or has
    no such columns; MissingPackage is for who has no pyarrow to read Parquet with.
    """
    with sqlite3.connect("") as rows:  # a temporary file of SQLite's, once it is large
        rows.execute("CREATE TABLE rows (study TEXT, object TEXT, kind TEXT, form TEXT)")
        rows.execute("CREATE TABLE names (study TEXT PRIMARY KEY, called TEXT)")
        for cells in filter(lambda cells: any(cells.values()), _rows(path)):
            study, found = str(cells.get(STUDY) or ""), [*_prompts(cells)]
            if not study:
                raise InputError(f"{path} has a row without a study: {dict(cells)}")
            rows.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", [(study, *r) for r in found])
        place = partial(located, root) if root else addressed
        names = rows.execute("SELECT DISTINCT study FROM rows")
        rows.executemany(
            "INSERT INTO names VALUES (?, ?)", ((name, place(name)[0]) for (name,) in names)
        )
        ordered = rows.execute(
            "SELECT called, study, object, kind, form FROM rows JOIN names USING (study) ORDER BY called, rows.rowid"
        )
        for _, group in groupby(ordered, key=itemgetter(0)):
            own = [*group]
            yield stamped(*place(own[0][1]), StudyPrompts.of_rows([row[2:] for row in own]))
    rows.close()


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Cells by name of column, in small letters."""
    if not path.is_file():
        raise MissingInput(f"there is no table {path}; wanted a CSV or Parquet file")
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        saved = "; save it as that, in Excel as CSV UTF-8" * (kind in SHEETS)
        raise InputError(f"{path} has the suffix {kind!r}; wanted .csv or .parquet{saved}")
    yield from _parquet_rows(path) if kind == ".parquet" else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open("rb") as head:
            if is_utf16(head.read(4)):
                raise InputError(f"{path}: {NOT_UTF16}, in Excel as CSV UTF-8")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            parted_by = _parted_by(first, path)
            lines = csv.reader(
                stream if parted_by else chain([first], stream),
                delimiter=parted_by or ",",
                strict=True,
            )
            names = [name.strip().lower() for name in next(filter(any, lines), ())]
            _check_columns(names, path)
            for cells in lines:
                if any(cells[len(names) :]):  # empty ones are no more than Excel's
                    number = lines.line_num + bool(parted_by)
                    raise InputError(f"{path}, line {number}: more cells than columns")
                yield {
                    name: cell.strip()
                    for name, cell in zip_longest(names, cells[: len(names)], fillvalue="")
                }
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} cannot be read as CSV in UTF-8: {error}; save it as that, in Excel as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parted_by(first: str, path: Path) -> str | None:
    """What a table's first line says stands between its columns; None where it says nothing of the kind."""
    said = PARTED_BY.fullmatch(first)
    if said and said[1] not in PARTS:
        raise InputError(
            f"{path} begins with {first.strip()!r}; wanted {', '.join(PARTS.values())} behind sep=, or no such line"
        )
    return said and said[1]


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns([name.lower() for name in file.schema_arrow.names], path)
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {name.lower(): _text(cell) for name, cell in row.items()}
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, list):
        return ",".join(map(_text, cell))
    return f"{cell:g}" if isinstance(cell, float) and cell.is_integer() else str(cell)


def _check_columns(names: Collection[str], path: Path) -> None:
    there = set(names)
    is_asked = any(kind in there for kind in KINDS) or any(
        set(columns) <= there for columns in NUMBERS.values()
    )
    if STUDY not in there or not is_asked:
        is_other = len(names) == 1 and bool({";", "\t"} & {*"".join(names)})
        parted = ", with commas between the columns, or a first line such as sep=;" * is_other
        raise InputError(
            f"{path} has the columns {', '.join(sorted(there)) or 'none'}; wanted study, and box, point or recist "
            f"(and object, z){parted}"
        )
    if twice := sorted(
        name for name, count in Counter(names).items() if count > 1 and name in OURS
    ):
        raise InputError(f"{path} has more than one column {twice[0]}; wanted one")


def _prompts(cells: Mapping[str, Any]) -> Iterator[Row]:
    """What a row asks."""
    object_id = str(cells.get(OBJECT) or "")
    z = next((str(cells[name]) for name in SLICES if cells.get(name)), "")
    for name in ALONE:  # with a decimal comma it would be two, and what follows another number
        if "," in str(cells.get(name) or ""):
            yield (
                object_id,
                WRONG,
                f"a row of the table has {name} {cells[name]}; wanted one number, such as 2.5",
            )
            return
    found = [(kind, str(cells[kind])) for kind in KINDS if cells.get(kind)]
    for kind, columns in NUMBERS.items():
        values = [str(cells[name]) for name in columns if cells.get(name)]
        if len(values) == len(columns):
            found.append((kind, ",".join(values)))
    if len(found) != 1:
        kinds = " and ".join(kind for kind, _ in found) or "none"
        yield object_id, WRONG, f"a row of the table has {kinds} of {', '.join(KINDS)}; wanted one"
        return
    kind, text = found[0]
    for form in text.split(SEVERAL) if kind == "point" else [text]:
        yield object_id, kind, f"{z},{form.strip()}" if z else form.strip()
        yield from ((object_id, name, str(cells[name])) for name in NAMES if cells.get(name))
