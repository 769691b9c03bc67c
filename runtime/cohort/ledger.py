"""The ledger: a row for each study, in one SQLite database that only the driver writes to.

A study is `waiting`, `done` or `failed`; each change is one transaction, so that whatever kills the driver leaves every
study in one of the three. Memory does not grow with the number of studies.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runtime.cohort.outcome import StudyOutcome, StudyTask
from runtime.cohort.study import Study, StudyPrompts
from runtime.errors import InputError, Sam2Error
from runtime.process.streams import sayable

FILE_NAME = "cohort.sqlite"
VERSION = 1
WAITING, DONE, FAILED = "waiting", "done", "failed"
BATCH = 1000  # studies of one transaction while they are found
BUSY_S = 30.0  # to wait for a reviewer's decision to be written
TOLD = ("objects", "ms", "warnings", "mask_bytes")
TOLD_OF_OBJECT = ("id", "doubt", "confidence", "volume_ml", "slice", "warnings")
"""What is looked for in each object of a study that is done; in the study, `TOLD`."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    path BLOB NOT NULL,
    source TEXT NOT NULL,
    asked TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    state TEXT NOT NULL,
    losses INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    error TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    key TEXT NOT NULL DEFAULT '',
    mask TEXT NOT NULL DEFAULT '',
    doubt REAL,
    told TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS turns ON studies (state, losses, size_bytes DESC, number);
CREATE INDEX IF NOT EXISTS doubts ON studies (state, doubt DESC, number);
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
MEET = """
INSERT INTO studies (name, path, source, asked, size_bytes, stamp, state, exit_code)
VALUES (:name, :path, :source, :asked, :size, :stamp, 'waiting', NULL)
ON CONFLICT (name) DO UPDATE SET
    path = excluded.path, source = excluded.source, asked = excluded.asked, size_bytes = excluded.size_bytes,
    state = CASE WHEN stamp = excluded.stamp AND (state = 'done' OR (state = 'failed' AND NOT :retries))
            THEN state ELSE 'waiting' END,
    losses = CASE WHEN stamp = excluded.stamp AND NOT :retries THEN losses ELSE 0 END,
    stamp = excluded.stamp
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies are in each state, and the bytes of those that wait."""

    waiting: int
    done: int
    failed: int
    waiting_bytes: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.done + self.failed

    def __str__(self) -> str:
        """In words."""
        return f"{self.done} done, {self.failed} failed, {self.waiting} waiting"


class Ledger:
    """The rows of a cohort in its folder.

    Raises InputError for a file that is no ledger, or that of a newer version; Sam2Error where the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with said(folder):
            self._db = sqlite3.connect(
                folder / FILE_NAME, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory, self._db.text_factory = sqlite3.Row, decoded
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise InputError(
                    f"{folder / FILE_NAME} has version {version}, this knows {VERSION}; upgrade medsam2-runtime"
                )
            # A process that is killed loses nothing, and a machine without power the latest rows alone, whose studies
            # are done again then; in return a commit waits for no disk.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(SCHEMA)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def about(self, name: str) -> str | None:
        """What is written down of the cohort itself, such as its input."""
        row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Write that down."""
        with self._change():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def meet(self, studies: Iterable[Study], settings_key: str, retries: bool) -> int:
        """Take in the studies that were found: new ones wait, those that are as they were keep their state.

        What has changed, is asked otherwise, or was done with other settings waits again; so does what has failed if
        `retries`. Returns how many more wait than before.
        """
        before = self._num_waiting()
        rows = (
            {
                "name": str(sayable(study.name)),
                "path": os.fsencode(study.path),
                "source": study.asked.source,
                "asked": study.asked.text.encode("utf-8", "surrogateescape"),
                "size": study.size_bytes,
                "stamp": f"{study.stamp} {settings_key}",
                "retries": retries,
            }
            for study in studies
        )
        while batch := [*islice(rows, BATCH)]:
            with self._change():
                self._db.executemany(MEET, batch)
        return self._num_waiting() - before

    def _num_waiting(self) -> int:
        query = "SELECT COUNT(*) FROM studies WHERE state = 'waiting'"
        (count,) = self._db.execute(query).fetchone()
        return int(count)

    def check_masks(self) -> int:
        """Let studies wait again whose masks are gone or have another size, or whose rows are damaged; how many."""
        gone = []
        for row in self._db.execute("SELECT name, state, number, mask, told FROM studies"):
            try:
                told = told_in(row, self.folder)
                is_gone = row["state"] == DONE and not self._is_there(row["mask"], told)
            except InputError:
                is_gone = True
            if is_gone:
                gone.append((row["number"],))
        with self._change():
            self._db.executemany(
                "UPDATE studies SET state = 'waiting', key = '', told = '{}' WHERE number = ?", gone
            )
        return len(gone)

    def _is_there(self, mask: str, told: Mapping[str, Any]) -> bool:
        try:
            return bool((self.folder / mask).stat().st_size == told["mask_bytes"])
        except OSError:
            return False

    def counts(self) -> Counts:
        """How far the cohort is."""
        query = "SELECT state, COUNT(*) AS n, SUM(size_bytes) AS bytes FROM studies GROUP BY state"
        rows = {row["state"]: row for row in self._db.execute(query)}
        number = {
            state: rows[state]["n"] if state in rows else 0 for state in (WAITING, DONE, FAILED)
        }
        left = rows[WAITING]["bytes"] if WAITING in rows else 0
        return Counts(number[WAITING], number[DONE], number[FAILED], left)

    def next(self, besides: Collection[int]) -> tuple[StudyTask, int, int] | None:
        """The next study to do, how many workers it has cost, and its bytes: those that cost none, the largest first.

        `besides` are the numbers of those that are being done.
        """
        query = "SELECT * FROM studies WHERE state = 'waiting' ORDER BY losses, size_bytes DESC, number LIMIT ?"
        for row in self._db.execute(query, (len(besides) + 1,)):
            if row["number"] not in besides:
                return _task(row, self.folder), row["losses"], row["size_bytes"]
        return None

    def lose(self, number: int) -> None:
        """Count a worker that a study has cost."""
        with self._change():
            self._db.execute("UPDATE studies SET losses = losses + 1 WHERE number = ?", (number,))

    def settle(self, outcome: StudyOutcome, mask: str) -> None:
        """Write down what became of a study; `mask` is where it would be, below the folder."""
        with self._change():
            if outcome.is_unchanged:
                self._db.execute(
                    "UPDATE studies SET state = 'done' WHERE number = ?", (outcome.number,)
                )
                return
            is_done = outcome.exit_code == 0
            self._db.execute(
                "UPDATE studies SET state = ?, exit_code = ?, error = ?, message = ?, key = ?, mask = ?, doubt = ?, "
                "told = ? WHERE number = ?",
                (
                    DONE if is_done else FAILED,
                    outcome.exit_code,
                    outcome.error,
                    str(sayable(outcome.message)),
                    outcome.key if is_done else "",
                    mask if is_done else "",
                    outcome.doubt,
                    json.dumps(sayable(outcome.told)),
                    outcome.number,
                ),
            )

    def rows(self, order: str = "name") -> Iterator[Mapping[str, Any]]:
        """Every study's row, by name or the most doubtful first, with `told` parsed. Raises what `told_in` raises."""
        by = {"name": "name", "doubt": "state != 'failed', doubt DESC, number"}[order]
        for row in self._db.execute(f"SELECT * FROM studies ORDER BY {by}"):
            entry = {key: row[key] for key in row.keys()}  # noqa: SIM118 (iterating gives values)
            yield {**entry, "path": os.fsdecode(row["path"]), "told": told_in(row, self.folder)}

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction."""
        with said(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _task(row: sqlite3.Row, folder: Path) -> StudyTask:
    known = row["key"] or None
    if known and not (folder / row["mask"]).is_file():
        known = None
    asked = row["asked"]
    text = asked.decode("utf-8", "surrogateescape") if isinstance(asked, bytes) else asked
    path = Path(os.fsdecode(row["path"]))
    return StudyTask(row["number"], row["name"], path, StudyPrompts(row["source"], text), known)


def decoded(text: bytes) -> str:
    """Text of the database, also where it is damaged, so that the rows beside it can be read."""
    return text.decode("utf-8", "replace")


def told_in(row: sqlite3.Row, folder: Path) -> dict[str, Any]:
    """What a row tells of a study. Raises InputError where that is damaged, which SQLite does not see."""
    try:
        told: dict[str, Any] = json.loads(row["told"])
        if row["state"] == DONE:
            wanted = [(TOLD, told), (("total",), told["ms"])]
            wanted += [(TOLD_OF_OBJECT, entry) for entry in told["objects"]]
            missing = [name for names, held in wanted for name in names if name not in held]
        else:
            missing = [] if isinstance(told, dict) else ["an object"]
    except (ValueError, TypeError, LookupError) as error:
        missing = [f"JSON ({error})"]
    if not row["told"].isascii():  # as it is written
        missing = ["some of its letters"]
    if missing:
        raise InputError(
            f"{folder / FILE_NAME} is damaged: its row of {row['name']} has lost {', '.join(missing)}; give the "
            "command of the cohort again, which does that study anew"
        )
    return told


@contextmanager
def said(folder: Path) -> Iterator[None]:
    """What SQLite refuses, in our words."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        file = folder / FILE_NAME
        if "not a database" in str(error) or "malformed" in str(error):
            raise InputError(f"{file} is no ledger ({error}); name another output") from error
        raise Sam2Error(
            f"{file} could not be written: {error}; what was there is kept: mend it and give the same command again"
        ) from error
