"""`report.html`: what became of a cohort, on one page: figures, what failed, whom to look at first, a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from runtime.cohort.html import histogram, page, picture, table
from runtime.cohort.ledger import DONE, FAILED, WAITING, Counts
from runtime.cohort.settings import PREVIEW_SUFFIX, PREVIEWS
from runtime.files.atomic import write_text
from runtime.process.counted import counted

FILE_NAME = "report.html"
QUEUE = 100  # objects of the review queue that are listed
PICTURES = 48  # studies on the contact sheet: half of them the most doubtful ones, half spread over all others
FAILURES = 100  # listed one by one
SAMPLES = 100_000  # objects whose figures are drawn: of more, those of the first ones


@dataclass
class CohortFigures:
    """What the page needs of all rows, gathered in one pass."""

    volumes_ml: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    doubts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    queue: list[tuple[str, int, float, float, float | None, int | None, str]] = field(
        default_factory=list
    )
    names: list[str] = field(default_factory=list)
    spread: list[str] = field(default_factory=list)
    stride: int = 1
    num_done: int = 0
    num_objects: int = 0

    def add(self, study: Mapping[str, Any]) -> None:
        """One study of the ledger; the most doubtful come first."""
        if study["state"] == FAILED:
            self.codes[study["exit_code"]] += 1
            if len(self.failures) < FAILURES:
                self.failures.append((study["name"], study["exit_code"], study["message"]))
        if study["state"] != DONE:
            return
        told = study["told"]
        self._offer(study["name"])
        if len(self.seconds) < SAMPLES:
            self.seconds.append(told["ms"]["total"] / 1000)
        self.warnings.update(told["warnings"])
        for entry in told["objects"]:
            self.num_objects += 1
            if len(self.doubts) < SAMPLES:
                self.doubts.append(entry["doubt"])
                self.confidences.append(entry["confidence"])
                if entry["volume_ml"] is not None:
                    self.volumes_ml.append(entry["volume_ml"])
            row = (study["name"], entry["id"], entry["doubt"], entry["confidence"])
            why = ", ".join(entry["warnings"])
            self.queue.append((*row, entry["volume_ml"], entry["slice"], why))
        if len(self.queue) > 2 * QUEUE:
            self._cut()

    def _offer(self, name: str) -> None:
        """Keep a name for the contact sheet, or not: every second one of the rest goes when there are too many."""
        if self.num_done < PICTURES // 2:
            self.names.append(name)
        elif (self.num_done - PICTURES // 2) % self.stride == 0:
            self.spread.append(name)
        self.num_done += 1
        if len(self.spread) >= 2 * PICTURES:
            self.spread = self.spread[::2]
            self.stride *= 2

    def pictures(self) -> list[str]:
        """Which studies are shown: the head of the queue, and others spread evenly over the rest."""
        count = min(PICTURES - len(self.names), len(self.spread))
        return [*self.names, *(self.spread[i * len(self.spread) // count] for i in range(count))]

    def _cut(self) -> None:
        self.queue.sort(key=lambda row: -row[2])
        del self.queue[QUEUE:]

    def most_doubtful(self) -> list[tuple[str, int, float, float, float | None, int | None, str]]:
        """The head of the queue."""
        self._cut()
        return self.queue


def write_report(
    folder: Path,
    studies: Iterable[Mapping[str, Any]],
    counts: Counts,
    about: Sequence[str],
    caution: str | None,
    reviewed: Sequence[tuple[str, int, float, float]] = (),
) -> Path:
    """Write the page, whole or not at all. Raises Sam2Error.

    Args:
        folder: of the cohort.
        studies: rows of the ledger, the most doubtful first.
        counts: of all.
        about: lines that say of what and with what.
        caution: about the weights, or None.
        reviewed: verdict, number of objects, and means of seconds and clicks.
    """
    overview = CohortFigures()
    for study in studies:
        overview.add(study)
    text = page("Cohort", _body(folder, overview, counts, about, caution, reviewed))
    return write_text(folder / FILE_NAME, text)


def _body(
    folder: Path,
    overview: CohortFigures,
    counts: Counts,
    about: Sequence[str],
    caution: str | None,
    reviewed: Sequence[tuple[str, int, float, float]],
) -> list[str]:
    many, objects = (
        counted(counts.total, "study", "studies"),
        counted(overview.num_objects, "object"),
    )
    body = [
        "<h1>Cohort</h1>",
        f"<p>{escape(f'{many}: {counts}; {objects}.')}</p>",
        *(f"<p>{escape(line)}</p>" for line in about),
    ]
    if caution:
        body.append(f'<p class="caution">{escape(caution)}</p>')
    if counts.waiting:
        wait = counted(counts.waiting, "study waits", "studies wait")
        body.append(f'<p class="caution">{wait} ({WAITING}): repeat the command.</p>')
    body += [
        "<h2>Distributions</h2>",
        '<div class="figures">',
        histogram("Volume of an object, ml", overview.volumes_ml, is_log=True),
        histogram("Confidence of an object", overview.confidences),
        histogram("Review score (1 is doubtful)", overview.doubts),
        histogram("Seconds of a study", overview.seconds, is_log=True),
        "</div>",
    ]
    if overview.warnings:
        heads = ("Warning", "Studies")
        body += ["<h2>Warnings</h2>", table(heads, overview.warnings.most_common())]
    if overview.failures:
        codes = ", ".join(
            f"{n} with exit code {code}" for code, n in sorted(overview.codes.items())
        )
        heads3 = ("Study", "Exit code", "Why")
        body += ["<h2>Failed</h2>", f"<p>{escape(codes)}.</p>", table(heads3, overview.failures)]
    if reviewed:
        heads4 = ("Verdict", "Objects", "Seconds, mean", "Clicks, mean")
        body += ["<h2>Reviewed</h2>", table(heads4, reviewed)]
    if not overview.num_objects:
        return body
    return [
        *body,
        "<h2>Review queue</h2>",
        f"<p>{counted(min(QUEUE, overview.num_objects), 'object')}, the most doubtful first; all are in "
        "results.parquet (review_score).</p>",
        table(
            ("Study", "Object", "Review score", "Confidence", "Volume, ml", "Slice", "Warnings"),
            overview.most_doubtful(),
        ),
        "<h2>Contact sheet</h2>",
        f"<p>Up to {PICTURES} studies: the most doubtful ones, then others spread evenly over the rest.</p>",
        f'<div class="sheet">{"".join(_figures(folder, overview.pictures()))}</div>',
    ]


def _figures(folder: Path, names: Sequence[str]) -> Iterable[str]:
    for name in names:
        data = picture(folder / PREVIEWS / f"{name}{PREVIEW_SUFFIX}")
        if data:
            shown = escape(name)
            yield f'<figure><img src="{data}" alt="Slices of {shown}"><figcaption>{shown}</figcaption></figure>'
