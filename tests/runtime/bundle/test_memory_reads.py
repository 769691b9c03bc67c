"""What the exporter writes about reads of memory is read back, and nothing else is."""

from __future__ import annotations

import json

import pytest

from runtime.bundle.memory_reads import MAX_READS, MemoryReadNames, reads_from_json, reads_to_json
from runtime.files.strict_json import Fault

READS = tuple(MemoryReadNames(f"x{i}", f"q{i}", f"k{i}", f"out{i}") for i in range(3))
FIRST = json.loads(reads_to_json(READS))[0]


def test_reads_are_read_as_they_were_written() -> None:
    assert reads_from_json(reads_to_json(READS)) == READS


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{}", "wanted a list"),
        ("[]", "wanted a list of 1 to"),
        (json.dumps([FIRST] * (MAX_READS + 1)), "wanted a list of 1 to"),
        (json.dumps([FIRST, FIRST]), "two reads have one result: out0, out0"),
        (json.dumps([[]]), r"\[0\] is \[\], wanted an object"),
        (json.dumps([{**FIRST, "key": 3}]), r"\[0\].key is 3"),
        (json.dumps([{**FIRST, "key": ""}]), r"\[0\].key is ''"),
        (json.dumps([{**FIRST, "value": "v"}]), r"\[0\] has an unknown 'value'"),
        (json.dumps([{"query": "q", "key": "k"}]), r"\[0\] lacks residual, result"),
        ('[{"key": "k", "key": "q"}]', "'key' is there twice"),
    ],
    ids=lambda text: text[:20],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(Fault, match=why):
        reads_from_json(text)
