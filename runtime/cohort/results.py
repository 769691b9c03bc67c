"""`results.parquet`: a row for each study and object, and one for each study that has none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cohort.review import Decisions
from runtime.errors import Sam2Error
from runtime.files.atomic import write_whole
from runtime.process.packages import DISTRIBUTION

if TYPE_CHECKING:
    import pyarrow

FILE_NAME = "results.parquet"
STAGES = ("fetch", "hash", "read", "load", "prompt", "propagate", "write", "total", "cpu")
ROWS_AT_ONCE = 5000  # of a row group, and in memory
COLUMNS: dict[str, tuple[Any, ...]] = {
    "study": ("string", "study", "name"),
    "object": ("int32", "object", "id"),
    "state": ("string", "study", "state"),
    "exit_code": ("int16", "study", "exit_code"),
    "error": ("string", "study", "error"),
    "message": ("string", "study", "message"),
    "path": ("string", "path"),
    "mask": ("string", "study", "mask"),
    "prompt": ("string", "object", "prompt"),
    "slice_start": ("int32", "object", "extent", 0),
    "slice_stop": ("int32", "object", "extent", 1),
    "voxels": ("int64", "object", "voxels"),
    "volume_ml": ("float64", "object", "volume_ml"),
    "confidence": ("float64", "object", "confidence"),
    "review_score": ("float64", "object", "doubt"),
    "review_slice": ("int32", "object", "slice"),
    "warnings": ("string", "warnings"),
    "num_slices": ("int32", "told", "num_slices"),
    **{f"spacing_{axis}_mm": ("float64", "told", "spacing_mm", i) for i, axis in enumerate("zyx")},
    "modality": ("string", "told", "modality"),
    "window": ("string", "told", "window"),
    **{f"ms_{stage}": ("float64", "told", "ms", stage) for stage in STAGES},
    "ended": ("timestamp[ms]", "ended"),
    "verdict": ("string", "decision", "verdict"),
    "reviewer": ("string", "decision", "who"),
    "corrected_mask": ("string", "decision", "corrected"),
    "review_dice": ("float64", "decision", "dice"),
    "review_seconds": ("float64", "decision", "seconds"),
    "review_clicks": ("int32", "decision", "clicks"),
    "num_encodings": ("int32", "told", "num_encodings"),
    "size_bytes": ("int64", "study", "size_bytes"),
    "workers_lost": ("int16", "study", "losses"),
    "model": ("string", "told", "model"),
    "backend": ("string", "told", "backend"),
    "worker": ("string", "told", "worker"),
    "version": ("string", "told", "versions", DISTRIBUTION),
    "key": ("string", "study", "key"),
}
"""Name of a column to its type, and where its value is found; docs/cohort.md says what each holds. What nobody knows is
null."""


def result_rows(
    studies: Iterable[Mapping[str, Any]], decisions: Decisions
) -> Iterator[dict[str, Any]]:
    """Rows of the table from the ledger's, and what people have decided."""
    for study in studies:
        told = study["told"]
        for entry in told.get("objects", ()) if study["state"] == "done" else ({},):
            decision = decisions.get((study["name"], entry.get("id", 0)))
            known = {
                "study": study,
                "path": os.fsencode(study["path"]).decode("utf-8", "backslashreplace"),
                "told": told,
                "ended": _moment(told.get("ended_s")),
                "object": entry,
                "warnings": ",".join(entry.get("warnings", ())),
                "decision": asdict(decision) if decision else {},
            }
            yield {name: _found(known, where) for name, (_, *where) in COLUMNS.items()}


def _found(known: Any, where: Sequence[Any]) -> Any:
    """What lies there; None for nothing, and for an empty text."""
    for key in where:
        known = known.get(key) if isinstance(known, Mapping) else known and known[key]
    return None if known == "" else known


def write_results(path: Path, studies: Iterable[Mapping[str, Any]], decisions: Decisions) -> int:
    """Write the table, whole and read back or not at all; memory does not grow with it. Returns the number of rows.

    Raises Sam2Error.
    """
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, kind) for name, (kind, *_) in COLUMNS.items()])
    sums: list[int] = []

    def write(part: Path) -> None:
        rows = result_rows(studies, decisions)
        with parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            while batch := list(islice(rows, ROWS_AT_ONCE)):
                table = pyarrow.Table.from_pylist(batch, schema=schema)
                writer.write_table(table)
                sums.append(_sum(table))

    def check(part: Path) -> None:
        with parquet.ParquetFile(part) as file:
            there = [_sum(file.read_row_group(i)) for i in range(file.num_row_groups)]
        if there != sums:
            raise Sam2Error(
                f"{path} could not be written: read back, it differs; is the disk full?"
            )

    write_whole(path, write, check)
    with parquet.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _moment(seconds: float | None) -> datetime | None:
    """In UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _sum(table: pyarrow.Table) -> int:
    """What tells one group of rows from another."""
    return hash(tuple(tuple(row.items()) for row in table.to_pylist()))
