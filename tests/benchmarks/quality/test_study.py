"""The study of memory, ends and zoom: its figures by hand, its table, its command."""

from __future__ import annotations

import json
from itertools import product
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS
from benchmarks.quality import study
from benchmarks.quality.study import (
    MEMORIES,
    STOPS,
    ZOOMS,
    Row,
    after,
    main,
    name_of,
    rows_of,
    table,
)
from export.damage import DAMAGES
from export.labelled import Case
from runtime import Volume
from runtime.errors import InputError
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.steps.encodings import Encodings
from tests.fakes import AS_SURE_AS_GREY, TELLING, fake_model


def test_every_memory_is_one_that_there_is() -> None:
    assert all(policy in POLICIES and pick_up in PICK_UPS for policy, pick_up in MEMORIES)
    assert MEMORIES[0] == ("fifo", "all")


def test_slices_behind_damaged_ones_are_counted_outwards() -> None:
    assert after(8, [5, 11], 20) == [12, 13, 14, 15, 16, 17, 4, 3, 2, 1, 0]
    assert after(8, [11, 12], 16) == [13, 14, 15]
    assert after(8, [], 20) == []


def made(worth: list[float]) -> Case:
    grey = np.rint(250 * np.array(worth)).astype(np.uint8)
    pixels = np.broadcast_to(grey[:, None, None], (len(worth), 16, 16)).copy()
    truth = np.zeros(pixels.shape, bool)
    truth[grey > 0, 2:12, 2:12] = True
    return Case("made", Volume.from_array(pixels), truth, 4)


def test_rows_of_a_run_say_what_a_rule_would_have_left() -> None:
    case, model = made([0.0, 0.9, 0.9, 0.9, 0.9, 0.9] + [0.0] * 9), fake_model(AS_SURE_AS_GREY)[0]
    rows = list(rows_of("p", case, "clean", Encodings(model), MEMORIES[0], None))
    assert [row.setting for row in rows] == [
        name_of(MEMORIES[0], None, rule) for rule in (None, *STOPS)
    ]
    whole, *stopped = rows
    assert whole.visited == 1.0 and whole.absent == 1.0
    for row in stopped:
        assert row.visited == pytest.approx(9 / 15)
        assert row.absent == pytest.approx(4 / 10)
        assert row.dice > whole.dice
        assert isnan(row.after)
    case = made([0.9] * 10 + [0.0] * 5)
    (other,) = rows_of("p", case, "noise", Encodings(model), ("self_sorting", "all"), None)
    assert other.setting == "self_sorting" and other.suite == "noise"
    assert 0 <= other.after <= 1


def row(phantom: str, setting: str, dice: float, suite: str = "clean") -> Row:
    return Row(phantom, f"object of {phantom}", suite, setting, dice, nan, 0.25, 1.0)


def test_the_table_marks_what_differs_for_sure() -> None:
    plain = [row(str(i), "fifo", 0.5 + 0.1 * i) for i in range(4)]
    better = [row(str(i), "better", 0.6 + 0.1 * i) for i in range(4)]
    other = [row(str(i), "other", 0.6 + 0.1 * (i - (i > 1) * 2)) for i in range(4)]
    lines = table([*plain, *better, *other], ["clean"], ["fifo", "better", "other"]).splitlines()
    assert lines[0] == "| | clean | drawn where absent | slices visited |"
    assert "0.650 (" in lines[2] and "*" not in lines[2]
    assert "0.750 (" in lines[3] and "* |" in lines[3]
    assert "*" not in lines[4]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command measures the fake model on small phantoms."""
    drawn = study.make_volume
    monkeypatch.setattr(study, "load", lambda *_: fake_model(TELLING)[0])
    monkeypatch.setattr(study, "make_volume", lambda seed: drawn(seed, 15, 64))


def test_the_command_measures_every_setting_on_held_out_phantoms(
    fast: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.json"
    main(["--phantoms", "2", "--objects", "1", "--suite", "clean,noise", "-o", str(path)])
    out = capsys.readouterr().out
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    rows = json.loads(path.read_text())["rows"]
    assert report["objects"] == len({row["case"] for row in rows}) > 0
    assert len({row["case"] for row in rows}) == len({row["phantom"] for row in rows})
    assert {row["phantom"] for row in rows} <= {str(HELD_OUT_SEEDS), str(HELD_OUT_SEEDS + 1)}
    settings = {row["setting"] for row in rows}
    memories = {name_of(memory, None, None) for memory in MEMORIES}
    tried = {
        name_of(memory, zoom, rule)
        for memory, zoom, rule in product(study.BEST, (None, *ZOOMS), (None, *STOPS))
    }
    assert settings == memories | tried
    assert all(f"| {setting} |" in out for setting in settings)
    assert {row["suite"] for row in rows} == {"clean", "noise"}


def test_an_unknown_suite_is_answered_with_all_there_are() -> None:
    with pytest.raises(InputError, match="no suite 'fog'; there are: " + ", ".join(DAMAGES)):
        main(["--suite", "clean,fog"])
