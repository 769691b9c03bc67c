"""Reports of the command: held against their schema, and read."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import runtime

SCHEMA = Path(runtime.__file__).parent / "jobs" / "report.schema.json"


@cache
def validator() -> Draft202012Validator:
    """Of reports."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read_report(line: str) -> dict[str, Any]:
    """A report as the command wrote it; whatever the schema does not allow is an error."""

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    report: dict[str, Any] = json.loads(line, parse_constant=refuse)
    validator().validate(report)
    return report


def confidences(found: dict[str, Any]) -> dict[int, float]:
    """Slice to confidence of one of a report's objects."""
    return {row["slice"]: row["confidence"] for row in found["slices"]}


def memories(found: dict[str, Any]) -> dict[int, list[int]]:
    """Slice to what was in memory there, where anything was."""
    return {row["slice"]: row["in_memory"] for row in found["slices"] if row["in_memory"]}


def codes(report: dict[str, Any]) -> list[str]:
    """Of its warnings."""
    return [warning["code"] for warning in report["warnings"]]
