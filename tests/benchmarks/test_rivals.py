from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rivals
from export.variants import VARIANTS
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.latency import COLUMNS, Run
from tests.variants import TOY

ROOT = Path(__file__).resolve().parents[2]


def test_every_contender_is_timed_and_matched(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    rivals.main([str(toy_bundle.path), "--slices", "2", "--repeat", "1", "--image-size", "64"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert list(report["contenders"]) == ["bundle", rivals.REFERENCE, "PyTorch bf16"]
    for entry in report["contenders"].values():
        assert list(entry["latency_ms"]) == list(COLUMNS)
        assert 0 <= entry["lowest_dice"] <= 1
    assert report["contenders"]["bundle"]["times_bundle"] == 1.0
    assert report["contenders"][rivals.REFERENCE]["worst_relative_error"] == 0.0
    assert 0 < report["contenders"]["bundle"]["worst_relative_error"] < 1e-3
    assert sum(line.startswith("| ") for line in table) == 4


def test_a_match_is_of_the_worst_slice() -> None:
    truth = {(0, 1): np.array([[4.0, -4.0]]), (1, 1): np.array([[2.0, -2.0]])}
    found = {(0, 1): np.array([[4.0, -4.0]]), (1, 1): np.array([[2.0, 1.0]])}
    match = rivals.match(Run([], 0.0, found), Run([], 0.0, truth))
    assert match["worst_relative_error"] == pytest.approx(1.5)
    assert match["lowest_dice"] == pytest.approx(2 / 3)


def test_nothing_to_race_is_an_error(toy_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        rivals.main([str(toy_bundle.path), "--slices", "0"])


@pytest.mark.parametrize(("name", "code"), [("--help", 0), ("speed", 2)])
def test_the_command_lists_what_there_is(name: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code
    assert "rivals" in done.stdout and "quality" in done.stdout
