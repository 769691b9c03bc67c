from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.speed import contenders, rivals
from benchmarks.speed.official import OfficialContender
from export.model.sam2 import Sam2
from export.variants import VARIANTS
from runtime.bundle.bundle import Bundle
from runtime.errors import BackendUnavailable, InputError
from runtime.measure.latency import COLUMNS, TimedRun
from runtime.measure.phantom import Phantom, make_phantom
from tests.variants import TOY

ROOT = Path(__file__).resolve().parents[3]


QUICK = ["--slices", "2", "--repeat", "1", "--image-size", "64"]


def race(
    bundle: Bundle, contenders: str, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[list[str], dict[str, Any]]:
    """The table's lines and the report."""
    rivals.main([str(bundle.path), *QUICK, "--contenders", contenders, *more])
    *table, last = capsys.readouterr().out.strip().splitlines()
    return table, json.loads(last)


@pytest.fixture(autouse=True)
def toy_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)


@pytest.mark.filterwarnings("ignore::UserWarning")  # upstream's, about its extension
def test_every_contender_is_timed_and_matched(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    officials = ["official-fp32", "official-bf16"]
    names = ["ort", "openvino", rivals.TRUTH, "torch-bf16", *officials]
    table, report = race(toy_bundle, ",".join(names), capsys, "--objects", "2")
    assert list(report["contenders"]) == names and report["absent"] == {}
    for name, entry in report["contenders"].items():
        assert list(entry["latency_ms"]) == list(COLUMNS)
        assert entry["latency_ms"]["total"]["median"] > 0
        has_stages = entry["latency_ms"]["encode"]["median"] > 0
        assert has_stages == (not name.startswith("official"))
        assert 0 <= entry["lowest_dice"] <= entry["dice"] <= 1
    errors = {name: entry["worst_relative_error"] for name, entry in report["contenders"].items()}
    assert errors[rivals.TRUTH] == 0.0
    assert 0 < errors["ort"] < 1e-3 and errors["official-fp32"] < 1e-3
    assert errors["official-bf16"] > 1e-3
    assert report["contenders"]["ort"]["times_first"] == 1.0
    assert sum(line.startswith("| ") for line in table) == 1 + len(names)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("is_there", [True, False])
def test_onednn_computes_products_where_pytorch_lets_it(
    is_there: bool,
    toy_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(contenders, "has_onednn", lambda: is_there)
    _, report = race(toy_bundle, "ort,official-onednn", capsys)
    if is_there:
        entry = report["contenders"]["official-onednn"]
        assert "products by oneDNN" in entry["description"]
        assert entry["worst_relative_error"] < 0.1  # bfloat16, with AMX
    else:
        assert "no products" in report["absent"]["official-onednn"]
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_ratios_are_to_the_first_contender(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    table, report = race(toy_bundle, "torch-bf16,ort", capsys)
    totals = [e["latency_ms"]["total"]["median"] for e in report["contenders"].values()]
    ratios = [e["times_first"] for e in report["contenders"].values()]
    assert ratios == pytest.approx([1, totals[1] / totals[0]], abs=0.006)
    assert any("against torch-bf16" in line for line in table)
    assert report["contenders"]["ort"]["worst_relative_error"] < 1e-3, "the truth is run anyway"


def test_who_cannot_run_is_named_with_the_reason(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(race: rivals.Race) -> rivals.Contender:
        return cast(rivals.Contender, SimpleNamespace(run=lambda *_: 1 / 0, description="breaks"))

    def is_missing(race: rivals.Race) -> rivals.Contender:
        raise BackendUnavailable("not on this machine")

    monkeypatch.setitem(rivals.CONTENDERS, "breaks", breaks)
    monkeypatch.setitem(rivals.CONTENDERS, "missing", is_missing)
    table, report = race(toy_bundle, "breaks,missing,ort", capsys)
    assert list(report["contenders"]) == ["ort"]
    assert report["absent"] == {
        "missing": "not on this machine",
        "breaks": "ZeroDivisionError: division by zero",
    }
    assert any("missing cannot run here: not on this machine" in line for line in table)
    with pytest.raises(InputError, match="none of them can run"):
        race(toy_bundle, "breaks,missing", capsys)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_volume_is_timed_both_ways_only_if_asked_for(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["ort", "official-fp32"]
    table, report = race(toy_bundle, ",".join(names), capsys, "--volume", "5")
    assert all(entry["volume_ms"] > 0 for entry in report["contenders"].values())
    first, official = (report["contenders"][name] for name in names)
    assert first["volume_times_first"] == 1.0
    ratio = official["volume_ms"] / first["volume_ms"]
    assert official["volume_times_first"] == pytest.approx(ratio, abs=0.006)
    assert any(f"({official['volume_times_first']:.2f})" in line for line in table)
    assert report["volume_slices"] == 5 and any("5 slices both ways" in line for line in table)
    table, report = race(toy_bundle, "ort", capsys)
    assert report["contenders"]["ort"]["volume_ms"] is None
    assert not any("both ways" in line for line in table)


def test_a_volume_that_fails_leaves_the_rest_of_the_row(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(model: Any, phantom: Phantom, num_objects: int) -> float:
        raise MemoryError("too long")

    monkeypatch.setattr("benchmarks.speed.contenders.time_volume", fails)
    table, report = race(toy_bundle, "ort", capsys, "--volume", "5")
    assert report["contenders"]["ort"]["volume_ms"] is None
    assert report["absent"] == {"ort": "MemoryError: too long"}
    assert any("| failed |" in line for line in table)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_official_predictor_follows_in_both_directions(
    toy: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = OfficialContender(toy, "eager", None, "cpu")
    seen: list[int] = []
    predictor = contender._predictor
    step = predictor._run_single_frame_inference

    def spy(**given: Any) -> Any:
        seen.append(given["frame_idx"])
        return step(**given)

    monkeypatch.setattr(predictor, "_run_single_frame_inference", spy)
    assert contender.volume_ms(make_phantom((5, 64, 64)), 1) > 0
    assert seen[-4:] == [3, 4, 1, 0], "after the prompt on slice 2"


def test_memory_is_told_of_the_host_and_of_a_device_only_where_there_is_one(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = race(toy_bundle, "ort", capsys, "--device", "cpu")
    assert list(report["contenders"]["ort"]["memory_mib"]) == ["host"]
    assert report["device"] == "CPU"


def test_cuda_that_is_not_here_is_refused_before_anything_is_measured(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="no CUDA for PyTorch here") as refused:
        rivals.main([str(toy_bundle.path), "--device", "cuda"])
    assert refused.value.exit_code == 5


def test_graphs_are_for_cuda(toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = race(toy_bundle, "ort,official-graph", capsys, "--device", "cpu")
    assert "CUDA graphs need a CUDA device" in report["absent"]["official-graph"]


@pytest.mark.parametrize(
    "wrong", [["--slices", "0"], ["--repeat", "0"], ["--volume", "2"], ["--objects", "0"]]
)
def test_what_cannot_be_measured_is_refused(toy_bundle: Bundle, wrong: list[str]) -> None:
    with pytest.raises(InputError, match="wanted"):
        rivals.main([str(toy_bundle.path), *wrong])


def test_an_unknown_contender_is_refused_with_those_there_are(toy_bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"no contender 'tortoise'; there are: ort, .*official"):
        rivals.main([str(toy_bundle.path), "--contenders", "ort,tortoise"])


def test_a_match_is_of_the_worst_slice() -> None:
    truth = {(0, 1): np.array([[4.0, -4.0]]), (1, 1): np.array([[2.0, -2.0]])}
    found = {(0, 1): np.array([[4.0, -4.0]]), (1, 1): np.array([[2.0, 1.0]])}
    match = rivals.match(TimedRun([], 0.0, found), TimedRun([], 0.0, truth))
    assert match["worst_relative_error"] == pytest.approx(1.5)
    assert match["lowest_dice"] == pytest.approx(2 / 3)
    assert match["dice"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(("name", "code"), [("--help", 0), ("speed", 2)])
def test_the_command_lists_what_there_is(name: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code
    shown = done.stdout if code == 0 else done.stderr
    assert "rivals" in shown and "quality" in shown
