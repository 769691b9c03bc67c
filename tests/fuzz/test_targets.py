"""A short run of what `python -m benchmarks fuzz` does for as long as one likes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz.pool import run_cases
from benchmarks.fuzz.seen import Seen
from benchmarks.fuzz.targets import ADDRESS, TARGETS, cases, missing
from benchmarks.fuzz.volumes import sample

ROUNDS = 6
ROOT = Path(__file__).parents[2]


def test_every_damaged_file_is_read_right_or_refused() -> None:
    assert not [name for name in TARGETS if missing(name)]
    source = cases(list(TARGETS), first_seed=0)
    num_cases = ROUNDS * sum(target.share for target in TARGETS.values())
    tally = run_cases((next(source) for _ in range(num_cases)), 1, ADDRESS)
    assert tally.tried == num_cases
    assert not tally.faults, "\n\n".join(
        f"{f.target} --seed {f.seed}: {f.outcome}\n{f.words}" for f in tally.faults
    )
    for name, counts in tally.counts.items():
        assert counts["refused"] + counts["read"] == ROUNDS * TARGETS[name].share


def test_volumes_are_compared_to_the_voxel_and_to_the_millimetre() -> None:
    seen = Seen.of(sample())
    assert seen.difference(Seen(seen.array.astype(float), seen.affine)) is None
    array = seen.array.copy()
    array[3, 4, 5] += 1
    assert "1 of 990 voxels" in (Seen(array, seen.affine).difference(seen) or "")
    moved = seen.affine.copy()
    moved[0, 3] += 1.0
    assert "corners" in (Seen(seen.array, moved).difference(seen) or "")
    moved[0, 3] = np.nan
    assert "corners" in (Seen(seen.array, moved).difference(seen) or "")
    assert "shape" in (Seen(seen.array[:3], seen.affine).difference(seen) or "")


@pytest.mark.parametrize("arguments", [["--minutes", "0.01"], ["--seed", "3", "--keep", "{}"]])
def test_the_command_counts_and_keeps(arguments: list[str], tmp_path: Path) -> None:
    words = [word.format(tmp_path) for word in arguments]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "fuzz",
            "--targets",
            "prompts",
            "--workers",
            "1",
            *words,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["tried"] == report["read"] + report["refused"] >= 1
    assert (tmp_path / "prompts-3" / "prompts.json").exists() == ("--seed" in arguments)
