"""What became of one study: a report cut down to what a row holds, or an exit code and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.cohort.doubt import confidence_of, doubt_of, doubtful_slice
from runtime.cohort.study import StudyPrompts
from runtime.errors import Sam2Error
from runtime.process.run import foreseen
from runtime.process.shortage import NOWHERE_TO_WRITE, causes
from runtime.prompts.prompt_file import NAMES

LONGEST = 2000  # characters of a message in a row


@dataclass(frozen=True, slots=True)
class StudyTask:
    """One study as a worker gets it.

    Attributes:
        number: of its row.
        name: of the study.
        path: of its volume.
        asked: its prompts.
        known_key: key of the mask that is there already, which need not be made again; or none.
    """

    number: int
    name: str
    path: Path
    asked: StudyPrompts
    known_key: str | None = None


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """What a worker has to tell of a task.

    Attributes:
        number: of the task.
        exit_code: 0, or what `medsam2 segment` would have left with.
        error: name of the error, or nothing.
        message: what was found, what was wanted, how to mend it.
        key: by which the result is known again (`Settings.key_of`); nothing where it was not known.
        is_unchanged: the mask that was there is right; nothing was computed.
        is_halting: nothing can be written any more; the study is not to blame.
        told: what the row holds beside, as `told_of` gives it.
    """

    number: int
    exit_code: int = 0
    error: str = ""
    message: str = ""
    key: str = ""
    is_unchanged: bool = False
    is_halting: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doubt(self) -> float:
        """Of its most doubtful object; of a study that failed, 1."""
        return max((entry["doubt"] for entry in self.told.get("objects", ())), default=1.0)


def failure(number: int, error: BaseException, key: str = "") -> StudyOutcome:
    """An error as the outcome of a task, with the exit code that the command would leave with."""
    name = type(error).__name__
    unforeseen = Sam2Error.exit_code, name, f"unforeseen: {name}: {error}"
    code, name, text = foreseen(error) or unforeseen
    is_halting = any(
        isinstance(cause, OSError) and cause.errno in NOWHERE_TO_WRITE for cause in causes(error)
    )
    return StudyOutcome(
        number, code, name, " ".join(text.split())[:LONGEST], key, is_halting=is_halting
    )


def told_of(report: Mapping[str, Any], mask: Path, worker: str) -> dict[str, Any]:
    """What a row holds of a report (docs/report.md), as JSON-able data.

    Args:
        report: of `medsam2 segment`.
        mask: the file, whose size tells later whether it is still there.
        worker: who did it.
    """
    warned: dict[int | None, list[str]] = {}
    written = report["outputs"]["segmentation"] or {"segments": ()}
    named = {entry["object"]: entry for entry in written["segments"]}
    for warning in report["warnings"]:
        warned.setdefault(warning["object"], []).append(warning["code"])
    return {
        "num_slices": report["input"]["num_slices"],
        "shape": report["input"]["shape"],
        "spacing_mm": report["input"]["spacing_mm"],
        "modality": report["input"]["modality"],
        "window": report["input"]["window"],
        "model": report["model"]["name"],
        "backend": report["model"]["backend"],
        "versions": report["versions"],
        "num_encodings": report["num_encodings"],
        "ms": {stage: round(1000 * s, 1) for stage, s in report["timing_s"].items()},
        "warnings": sorted({warning["code"] for warning in report["warnings"]}),
        "mask_bytes": mask.stat().st_size,
        "worker": worker,
        "objects": [
            {
                "id": entry["id"],
                "prompt": json.dumps(entry["prompts"]),
                "voxels": entry["voxels"],
                "volume_ml": entry["volume_ml"],
                "extent": entry["extent"],
                "confidence": round(confidence_of(entry), 4),
                "doubt": round(doubt_of(entry, warned.get(entry["id"], ())), 4),
                "slice": doubtful_slice(entry),
                "warnings": sorted({*warned.get(entry["id"], ()), *warned.get(None, ())}),
                **{name: named[entry["id"]][name] for name in NAMES if entry["id"] in named},
            }
            for entry in report["objects"]
        ],
    }
