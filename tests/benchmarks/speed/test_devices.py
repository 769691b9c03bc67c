from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import devices
from benchmarks.speed.devices import (
    Meter,
    check_device,
    memory_readers,
    products_by_onednn,
    resident_bytes,
    timed_ms,
)
from runtime.errors import BackendUnavailable


def test_a_meter_keeps_the_peak_above_where_it_began() -> None:
    levels = iter([10 * devices.MIB, 10 * devices.MIB, *[30 * devices.MIB] * 1000])
    meter = Meter({"host": lambda: next(levels)})
    with meter:
        pass
    assert meter.grown_mib == {"host": 20.0}


def test_a_meter_that_sees_memory_shrink_tells_of_no_growth() -> None:
    levels = iter([10, *[5] * 1000])
    meter = Meter({"host": lambda: next(levels)})
    with meter:
        pass
    assert meter.grown_mib == {"host": 0.0}


def test_this_process_is_resident() -> None:
    assert resident_bytes() > devices.MIB


@pytest.mark.parametrize(("device", "names"), [("cpu", {"host"}), ("cuda", {"host", "device"})])
def test_what_can_be_read_depends_on_the_device(device: str, names: set[str]) -> None:
    assert set(memory_readers(device)) == names


def test_memory_in_use_on_a_device_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (30, 100))
    assert devices.device_bytes() == 70


@pytest.mark.parametrize(("device", "waits"), [("cpu", 0), ("cuda", 2)])
def test_a_device_is_idle_at_both_readings(
    device: str, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda: said.append("wait"))
    assert timed_ms(lambda: said.append("do"), device) >= 0
    assert said.count("wait") == waits
    assert said[len(said) // 2] == "do"


@pytest.mark.parametrize("here", [True, False])
def test_cuda_is_refused_only_where_it_is_not(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: here)
    assert devices.default_device() == ("cuda" if here else "cpu")
    check_device("cpu")
    if here:
        check_device("cuda")
        return
    with pytest.raises(BackendUnavailable, match="no CUDA for PyTorch here"):
        check_device("cuda")


def test_fp32_is_made_precise() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        devices.precise_fp32()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


ROW = "NVIDIA H200, 580.1, 1980 MHz, 1980 MHz, 3201 MHz, 120.5 W, 700.00 W, 35"


@pytest.mark.parametrize(
    ("there", "answer", "known"),
    [
        (False, ROW, False),
        (True, ROW, True),
        (True, "No devices were found", False),
        (True, subprocess.TimeoutExpired("nvidia-smi", 10), False),
    ],
    ids=["missing", "there", "no card", "hangs"],
)
def test_clocks_are_told_where_nvidia_smi_knows_them(
    there: bool, answer: Any, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=f"{answer}\n")

    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if there else None)
    monkeypatch.setattr("subprocess.run", answers)
    found = devices.clocks()
    assert (found is not None) == known
    if found:
        assert found["clocks.sm"] == "1980 MHz" and found["temperature.gpu"] == "35"


@pytest.mark.parametrize("fails", [True, False])
def test_products_go_to_onednn_for_a_while(fails: bool) -> None:
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    a, b = torch.rand(64, 64), torch.rand(64, 64)
    try:
        with products_by_onednn():
            assert matmul.fp32_precision == "bf16"
            assert torch.allclose(a @ b, a.double().mm(b.double()).float(), rtol=2e-2)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert matmul.fp32_precision == before
