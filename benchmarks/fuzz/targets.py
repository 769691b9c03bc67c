"""Everything that is read from outside, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from random import Random

from benchmarks.fuzz.dicom import DICOM
from benchmarks.fuzz.documents import DOCUMENTS
from benchmarks.fuzz.pictures import PICTURES
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.volumes import VOLUMES
from benchmarks.fuzz.weights import WEIGHTS

TARGETS: dict[str, Target] = {**VOLUMES, **DICOM, **PICTURES, **DOCUMENTS, **WEIGHTS}
ADDRESS = "benchmarks.fuzz.targets:TARGETS"


def missing(name: str) -> list[str]:
    """Packages that a target needs and that are not installed."""
    return [package for package in TARGETS[name].packages if find_spec(package) is None]


def cases(names: list[str], first_seed: int) -> Iterator[tuple[str, int]]:
    """Targets and seeds without end: each round has every target as often as its share says, in a drawn order."""
    for number in count(first_seed):
        round_ = [(name, number * 10 + i) for name in names for i in range(TARGETS[name].share)]
        Random(number).shuffle(round_)
        yield from round_
