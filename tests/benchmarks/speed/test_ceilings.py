from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks.speed import ceilings, figures
from runtime.errors import BackendUnavailable, InputError

QUICK = ["--copy-mib", "1", "--side", "64", "--repeat", "1"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], dict[str, Any]]:
    ceilings.main([*QUICK, *arguments])
    *table, last = capsys.readouterr().out.strip().splitlines()
    return table, json.loads(last)


def test_a_processor_has_copies_and_products(capsys: pytest.CaptureFixture[str]) -> None:
    table, report = run(capsys, "--device", "cpu")
    units = {name: row["unit"] for name, row in report["figures"].items()}
    assert units["copy"] == "GB/s" and units["fp32 64x64x64"] == "TFLOP/s"
    assert units["bf16 1024x256x2048"] == "TFLOP/s"
    assert "launch" not in units
    assert all(row["value"] > 0 for row in report["figures"].values())
    assert report["device"] == "CPU" and report["copy_mib"] == 1 and report["side"] == 64
    assert sum(line.startswith("| ") for line in table) == 1 + len(units)


def test_a_cuda_device_is_measured_in_all_that_counts() -> None:
    names = [figure.name for figure in figures.figures("cuda", ceilings.USUAL["cuda"])]
    assert len(set(names)) == len(names)
    for dtype in ("bf16", "fp16", "tf32"):
        assert {f"{dtype} 8192x8192x8192", f"{dtype} 1024x256x256"} <= set(names)
    assert {"copy", "launch", "graph node", "host to device", "4 bytes to host"} <= set(names)


def test_without_cuda_one_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="no CUDA for PyTorch here"):
        ceilings.main(["--device", "cuda"])


@pytest.mark.parametrize("option", ["--copy-mib", "--side", "--repeat"])
def test_nothing_to_measure_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"found {option} 0; wanted 1 or more"):
        ceilings.main(["--device", "cpu", option, "0"])


def test_the_first_timing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(figures, "timed_ms", lambda do, device: next(times))
    assert figures.median_ms(lambda: None, "cpu", 3) == 2.0


def test_a_copys_speed_counts_what_is_read_and_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "median_ms", lambda *_: 1.0)
    assert figures.copy_gb_s("cpu", ceilings.Sizes(1, 1, 1)) == pytest.approx(2 * 2**20 / 1e6)
    found = figures.product_tflops("cpu", "fp32", (10, 20, 30), 1)
    assert found == pytest.approx(2 * 10 * 20 * 30 / 1e-3 / 1e12)


@pytest.mark.parametrize("was", [True, False])
def test_tf32_is_left_as_it_was(was: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = was
        figures.product_tflops("cpu", "tf32", (2, 2, 2), 1)
        assert torch.backends.cuda.matmul.allow_tf32 == was
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.gpu
def test_a_card_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device here")
    _, report = run(capsys, "--device", "cuda")
    assert all(row["value"] > 0 for row in report["figures"].values())
