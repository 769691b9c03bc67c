"""A kind of file to damage: how a healthy one is made, damaged, read and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of input.

    Attributes:
        prepare: makes healthy files in a new folder, once a worker; returns what a reader should find in them.
        damage: damages files of a copy of that folder, as the generator says.
        read: reads the copy; wanted is an answer or a Sam2Error.
        judge: says what is wrong with an answer, or None: given the answer, the folder that was read and what
            `prepare` returned. It may ask independent readers.
        packages: what it needs beside the runtime's own; without them it is left out.
        share: how often its turn comes, in relation to the others.
    """

    prepare: Callable[[Path], Any]
    damage: Callable[[Path, Random], None]
    read: Callable[[Path], Any]
    judge: Callable[[Any, Path, Any], str | None]
    packages: tuple[str, ...] = ()
    share: int = 4
