"""Scaling curves: every point is asked for rightly, and table, file and picture hold them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from benchmarks.speed import scaling
from export.variants import VARIANTS
from runtime.bundle.bundle import open_bundle
from runtime.errors import InputError, Sam2Error
from runtime.measure.latency import COLUMNS
from tests.variants import TOY

SMALL = ["--slices", "2", "--image-size", "64", "--repeat", "1"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What each point's process would have been started with."""
    seen: list[dict[str, str]] = []

    def bench(command: list[str]) -> dict[str, Any]:
        options = dict(zip(command[::2], command[1::2], strict=True))
        seen.append(options)
        slices, objects = int(options["--slices"]), int(options.get("--objects", 1))
        return {
            "model": "toy",
            "model_image_size": 64,
            "backend": "none",
            "first_mask_ms": 9.0,
            "second_prompt_ms": 1.0,
            "feature_mib_per_slice": 0.5,
            "peak_memory_mib": 100 + 2 * slices + objects,
            "latency_ms": {stage: float(objects) for stage in COLUMNS} | {"attend": objects / 4},
        }

    monkeypatch.setattr(scaling, "_bench", bench)
    return seen


def test_each_sweep_changes_one_option(
    asked: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, picture = tmp_path / "s.json", tmp_path / "s.png"
    words = ["--slices", "5", "--backend", "ort", "--bundle", "b", "--repeat", "3"]
    words += ["-o", str(json_file)]
    scaling.main([*words, "--image-size", "512", "--picture", str(picture)])
    common = {
        "--slices": "5",
        "--image-size": "512",
        "--repeat": "3",
        "--backend": "ort",
        "--bundle": "b",
    }
    changed = [
        (name, int(value))
        for options in asked
        for name, value in options.items()
        if common.get(name) != value
    ]
    assert all(common.keys() <= options.keys() for options in asked)
    report = json.loads(json_file.read_text())
    wanted = [(f"--{name}", row[name]) for name, rows in report["sweeps"].items() for row in rows]
    assert changed == wanted
    assert {name for name, _ in wanted} == {"--slices", "--objects", "--prompted", "--threads"}
    assert report["mib_per_slice"] == pytest.approx(1.0), "of 2, the phantom's slices take 1"
    table, last = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert json.loads(last) == report
    assert "| 16 | 16.0 | 4.0 | 126 |" in table
    with Image.open(picture) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 10
    assert pyplot.get_fignums() == []


def test_one_sweep_alone_is_drawn_too(asked: list[dict[str, str]], tmp_path: Path) -> None:
    picture = tmp_path / "s.png"
    scaling.main(["--sweeps", "objects", "--picture", str(picture)])
    assert len(asked) == len(scaling.SWEEPS["objects"])
    with Image.open(picture) as drawn:
        assert drawn.width > 200


@pytest.mark.parametrize(
    ("cores", "wanted"), [(4, ["1", "2", "4"]), (3, ["1", "2"]), (None, ["1"])]
)
def test_no_more_threads_are_tried_than_there_are_cores(
    cores: int | None,
    wanted: list[str],
    asked: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: cores)
    scaling.main(["--sweeps", "threads"])
    assert [options["--threads"] for options in asked] == wanted


def test_a_slice_costs_what_the_line_through_the_points_rises() -> None:
    rows = [{"slices": n, "peak_memory_mib": 50 + 3 * n} for n in (1, 2, 8)]
    assert scaling.memory_slope(rows) == pytest.approx(3)


def test_an_unknown_sweep_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sweep 'colour'; there are: slices, .*size"):
        scaling.main(["--sweeps", "slices,colour"])
    for option in ("-o", "--picture"):
        with pytest.raises(InputError, match="missing is not a folder; make it first"):
            scaling.main([option, str(tmp_path / "missing" / "s")])


def test_image_sizes_get_bundles_of_their_own(
    no_tracing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []

    def bench(command: list[str]) -> dict[str, Any]:
        bundle = open_bundle(command[command.index("--bundle") + 1])
        sizes.append(bundle.model.image_size)
        assert bundle.weights["kind"] == "random"
        return {
            "model": bundle.model.name,
            "backend": "none",
            "peak_memory_mib": 1,
            "latency_ms": dict.fromkeys(COLUMNS, 1.0),
        }

    monkeypatch.setattr(scaling, "_bench", bench)
    monkeypatch.setattr(scaling, "SIZES", (64, 96))
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    scaling.main(["--sweeps", "size", "--model", TOY.name])
    assert sizes == [64, 96]
    assert capsys.readouterr().out.startswith(f"{TOY.name}; none")


def test_a_point_is_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "SWEEPS", {"objects": (2,)})
    scaling.main([*SMALL, "--sweeps", "objects", "--backend", "ort"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = report["sweeps"]["objects"]
    assert row["objects"] == 2 and row["peak_memory_mib"] > 50
    assert row["latency_ms"]["total"] > row["latency_ms"]["attend"] > 0


def test_a_point_has_the_median_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"median": 3.0, "p95": 7.0}
    report = {**dict.fromkeys(scaling.KEPT, 1), "latency_ms": dict.fromkeys(COLUMNS, row)}
    done = SimpleNamespace(returncode=0, stdout=f"a table\n{json.dumps(report)}\n")
    monkeypatch.setattr(scaling.subprocess, "run", lambda *args, **options: done)
    found = scaling._bench([])
    assert found == {**dict.fromkeys(scaling.KEPT, 1), "latency_ms": dict.fromkeys(COLUMNS, 3.0)}


def test_a_process_that_fails_is_reported_with_what_it_said() -> None:
    with pytest.raises(Sam2Error, match="found 0 slices to measure"):
        scaling._bench(["--slices", "0"])
