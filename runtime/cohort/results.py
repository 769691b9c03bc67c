"""`results.parquet`: a row for each study and object, and one for each study that has none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
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
COLUMNS = {
    "study": "string",
    "object": "int32",
    "state": "string",
    "exit_code": "int16",
    "error": "string",
    "message": "string",
    "path": "string",
    "mask": "string",
    "prompt": "string",
    "slice_start": "int32",
    "slice_stop": "int32",
    "voxels": "int64",
    "volume_ml": "float64",
    "confidence": "float64",
    "review_score": "float64",
    "review_slice": "int32",
    "warnings": "string",
    "num_slices": "int32",
    "spacing_z_mm": "float64",
    "spacing_y_mm": "float64",
    "spacing_x_mm": "float64",
    "modality": "string",
    "window": "string",
    **{f"ms_{stage}": "float64" for stage in STAGES},
    "ended": "timestamp[ms]",
    "verdict": "string",
    "reviewer": "string",
    "corrected_mask": "string",
    "review_seconds": "float64",
    "review_clicks": "int32",
    "num_encodings": "int32",
    "size_bytes": "int64",
    "workers_lost": "int16",
    "model": "string",
    "backend": "string",
    "worker": "string",
    "version": "string",
    "key": "string",
}
"""Name of a column to its type; docs/cohort.md says what each holds. What nobody knows is null."""


def result_rows(
    studies: Iterable[Mapping[str, Any]], decisions: Decisions
) -> Iterator[dict[str, Any]]:
    """Rows of the table from the ledger's, and what people have decided."""
    for study in studies:
        told = study["told"]
        spacing = told.get("spacing_mm") or (None, None, None)
        common = {
            "study": study["name"],
            "state": study["state"],
            "exit_code": study["exit_code"],
            "error": study["error"] or None,
            "message": study["message"] or None,
            "path": os.fsencode(study["path"]).decode("utf-8", "backslashreplace"),
            "mask": study["mask"] or None,
            "num_slices": told.get("num_slices"),
            "spacing_z_mm": spacing[0],
            "spacing_y_mm": spacing[1],
            "spacing_x_mm": spacing[2],
            "modality": told.get("modality"),
            "window": told.get("window"),
            **{f"ms_{stage}": told.get("ms", {}).get(stage) for stage in STAGES},
            "ended": _moment(told.get("ended_s")),
            "num_encodings": told.get("num_encodings"),
            "size_bytes": study["size_bytes"],
            "workers_lost": study["losses"],
            "model": told.get("model"),
            "backend": told.get("backend"),
            "worker": told.get("worker"),
            "version": told.get("versions", {}).get(DISTRIBUTION),
            "key": study["key"] or None,
        }
        for entry in told.get("objects", ()) if study["state"] == "done" else ({},):
            extent = entry.get("extent") or (None, None)
            decision = decisions.get((study["name"], entry.get("id", 0)))
            row = {
                **common,
                "object": entry.get("id"),
                "prompt": entry.get("prompt"),
                "slice_start": extent[0],
                "slice_stop": extent[1],
                "voxels": entry.get("voxels"),
                "volume_ml": entry.get("volume_ml"),
                "confidence": entry.get("confidence"),
                "review_score": entry.get("doubt"),
                "review_slice": entry.get("slice"),
                "verdict": decision and decision.verdict,
                "reviewer": decision and decision.who,
                "corrected_mask": (decision and decision.corrected) or None,
                "review_seconds": decision and decision.seconds,
                "review_clicks": decision and decision.clicks,
                "warnings": ",".join(entry.get("warnings", ())) or None,
            }
            yield {name: row[name] for name in COLUMNS}


def write_results(path: Path, studies: Iterable[Mapping[str, Any]], decisions: Decisions) -> int:
    """Write the table, whole and read back or not at all; memory does not grow with it. Returns the number of rows.

    Raises Sam2Error.
    """
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, kind) for name, kind in COLUMNS.items()])
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
