"""What people say of a cohort's masks: decisions beside them, which change no mask, and the queue of what to look at.

Each decision is a row of its own in the ledger's database, and the latest one counts. It is about a result, which is
known by its key: where a mask has been made anew since, nobody has decided yet.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.cohort.ledger import BUSY_S, FILE_NAME, decoded, said, told_in
from runtime.errors import InputError, MissingInput, NoObject

VERDICTS = {
    "accepted": "the mask is right",
    "corrected": "it was wrong, and another one is right",
    "rejected": "it is wrong, or of nothing that is wanted",
}
CORRECTIONS = "corrections"
MOST_AT_ONCE = 200  # objects of the queue
SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY,
    study TEXT NOT NULL,
    object INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    who TEXT NOT NULL,
    key TEXT NOT NULL,
    seconds REAL NOT NULL,
    clicks INTEGER NOT NULL,
    corrected TEXT NOT NULL,
    dice REAL,
    decided_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS verdicts ON decisions (study, object, number);
"""
FIELDS = (
    *("study", "object", "verdict", "who", "key"),
    *("seconds", "clicks", "corrected", "dice", "decided_s"),
)
LATEST = "SELECT *, MAX(number) FROM decisions GROUP BY study, object"


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody said of an object.

    Attributes:
        study: its name.
        object_id: of the object.
        verdict: a key of `VERDICTS`.
        who: said it.
        key: of the result that was looked at.
        seconds, clicks: that it took: from when it was on the screen, and what was done to it.
        corrected: the mask that is right, below the cohort's folder; nothing unless it was corrected.
        dice: in 3-D, of the cohort's own mask before with the one that is right after; None where none is.
        decided_s: when, in seconds since 1970.
    """

    study: str
    object_id: int
    verdict: str
    who: str
    key: str
    seconds: float = 0.0
    clicks: int = 0
    corrected: str = ""
    dice: float | None = None
    decided_s: float = 0.0


Decisions = Mapping[tuple[str, int], Decision]
"""The latest ones by study and object."""


class Review:
    """The decisions on a cohort, from any thread; the cohort may be at work meanwhile.

    Args:
        folder: of the cohort.

    Raises MissingInput where there is no cohort.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / FILE_NAME).is_file():
            raise MissingInput(
                f"{folder} holds no cohort ({FILE_NAME}); wanted the output of medsam2 cohort"
            )
        with self._connected() as db:
            db.executescript(SCHEMA)
            if "dice" not in {row["name"] for row in db.execute("PRAGMA table_info(decisions)")}:
                db.execute("ALTER TABLE decisions ADD COLUMN dice REAL")  # begun before it was kept

    def record(self, decision: Decision) -> Decision:
        """Keep a decision; returns it with its time. Raises InputError for an unknown verdict, NoObject."""
        if decision.verdict not in VERDICTS:
            raise InputError(
                f"found the verdict {decision.verdict!r}; wanted {', '.join(VERDICTS)}"
            )
        study = self.study(decision.study)
        if decision.object_id not in {entry["id"] for entry in study["told"]["objects"]}:
            raise NoObject(f"{decision.study} has no object {decision.object_id}")
        row = (
            *(decision.study, decision.object_id, decision.verdict, decision.who, decision.key),
            *(decision.seconds, decision.clicks, decision.corrected, decision.dice, time.time()),
        )
        with self._connected() as db:
            db.execute(
                f"INSERT INTO decisions ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})",
                row,
            )
        return Decision(*row)

    def about(self, name: str) -> str | None:
        """What the cohort has noted of itself (`Ledger.about`)."""
        with self._connected() as db:
            row = db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def latest(self) -> Decisions:
        """The decisions that count: those on results as they are now."""
        with self._connected() as db:
            keys = "SELECT latest.*, studies.key AS now FROM studies, (" + LATEST + ") AS latest "
            rows = db.execute(keys + "WHERE studies.name = latest.study AND studies.state = 'done'")
            return {
                (row["study"], row["object"]): _decision(row)
                for row in rows
                if row["key"] == row["now"]
            }

    def study(self, name: str) -> dict[str, Any]:
        """The row of a study that is done, with `told` parsed. Raises NoObject."""
        with self._connected() as db:
            row = db.execute(
                "SELECT * FROM studies WHERE name = ? AND state = 'done'", (name,)
            ).fetchone()
        if row is None:
            raise NoObject(f"no study {name!r} of this cohort is done")
        return _study(row, self.folder)

    def studies(self) -> Iterator[dict[str, Any]]:
        """Every study that is done, the most doubtful first."""
        with self._connected() as db:
            query = "SELECT * FROM studies WHERE state = 'done' ORDER BY doubt DESC, number"
            yield from (_study(row, self.folder) for row in db.execute(query))

    @property
    def num_studies(self) -> int:
        """How many studies are done."""
        with self._connected() as db:
            (count,) = db.execute("SELECT COUNT(*) FROM studies WHERE state = 'done'").fetchone()
        return int(count)

    def queue(self, start: int, count: int) -> dict[str, Any]:
        """A part of the queue, as JSON-able data: objects of studies that are done, those of the most doubtful first.

        Args:
            start, count: which studies, from the head of the queue on; at most `MOST_AT_ONCE`.
        """
        total, decisions = self.num_studies, self.latest()
        with self._connected() as db:
            query = "SELECT * FROM studies WHERE state = 'done' ORDER BY doubt DESC, number LIMIT ? OFFSET ?"
            found = [
                _study(row, self.folder)
                for row in db.execute(query, (min(count, MOST_AT_ONCE), start))
            ]
        objects = []
        for study in found:
            for entry in sorted(study["told"]["objects"], key=lambda entry: -entry["doubt"]):
                decision = decisions.get((study["name"], entry["id"]))
                objects.append(
                    {
                        "study": study["name"],
                        "object": entry["id"],
                        "doubt": entry["doubt"],
                        "confidence": entry["confidence"],
                        "volume_ml": entry["volume_ml"],
                        "slice": entry["slice"],
                        "warnings": entry["warnings"],
                        "verdict": None if decision is None else decision.verdict,
                    }
                )
        return {"studies": total, "start": start, "decided": len(decisions), "objects": objects}

    def next_correction(self, study: str, object_id: int) -> str:
        """Where the next correction of an object goes, below the folder: none is ever written over."""
        with self._connected() as db:
            query = "SELECT COUNT(*) FROM decisions WHERE study = ? AND object = ?"
            (count,) = db.execute(query, (study, object_id)).fetchone()
        return f"{CORRECTIONS}/{study}.{object_id}.{count + 1}.nii.gz"

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own: they are cheap, and belong to threads."""
        with (
            said(self.folder),
            closing(_opened(self.folder)) as db,
        ):
            db.row_factory, db.text_factory = sqlite3.Row, decoded
            with db:
                yield db


def _opened(folder: Path) -> sqlite3.Connection:
    """The database of a cohort; of one that may not be written to, for reading alone."""
    file = folder / FILE_NAME
    if os.access(folder, os.W_OK) and os.access(file, os.W_OK):
        return sqlite3.connect(file, timeout=BUSY_S)
    # Without a log beside it nobody is writing, and SQLite need not make one to read (sqlite.org/wal.html, 5).
    is_logged = file.with_name(f"{file.name}-wal").exists()
    how = "mode=ro" if is_logged else "immutable=1"
    return sqlite3.connect(f"{file.absolute().as_uri()}?{how}", timeout=BUSY_S, uri=True)


def summary(decisions: Decisions) -> list[tuple[str, int, float, float]]:
    """Verdict, how many, and the means of seconds and clicks: what reviewing costs."""
    rows = []
    for verdict in VERDICTS:
        own = [d for d in decisions.values() if d.verdict == verdict]
        if own:
            seconds = sum(d.seconds for d in own) / len(own)
            rows.append((verdict, len(own), seconds, sum(d.clicks for d in own) / len(own)))
    return rows


def _decision(row: sqlite3.Row) -> Decision:
    return Decision(*(row[name] for name in FIELDS))


def _study(row: sqlite3.Row, folder: Path) -> dict[str, Any]:
    entry = {name: row[name] for name in ("number", "name", "mask", "doubt", "key", "size_bytes")}
    return {**entry, "path": os.fsdecode(row["path"]), "told": told_in(row, folder)}
