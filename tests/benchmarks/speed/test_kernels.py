"""The kernels' benchmark, with a device that answers from the references."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import kernels as bench
from kernels.catalogue import KERNELS
from kernels.device import NoDevice
from kernels.kernel import Kernel, KernelCase
from runtime.errors import BackendUnavailable, Mismatch

LARGEST_GRID, LARGEST_BLOCK = (2**31 - 1, 65535, 65535), 1024  # CUDA's limits
MS = 0.5


class Device:
    """Computes what the references do, each launch in half a millisecond."""

    name, off_by = "Abacus", 0

    def stream(self) -> str:
        return "stream"

    def empty(self, shape: tuple[int, ...], dtype: str, *, stream: str) -> Any: ...

    def copy(self, source: Any, target: Any, *, stream: str) -> None: ...

    def buffers(self, kernel: Kernel, case: KernelCase, *, stream: str) -> dict[str, Any]:
        return {}

    def enqueue(self, kernel: Kernel, *rest: Any, stream: str) -> None: ...

    def time_ms(self, enqueue: Callable[[], object], repeat: int, *, stream: str) -> float:
        enqueue()
        return MS

    def run(self, kernel: Kernel, case: KernelCase, *, stream: str) -> dict[str, Any]:
        found = kernel.reference(**case.arrays, **case.numbers)
        return {name: array + array.dtype.type(self.off_by) for name, array in found.items()}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> type[Device]:
    monkeypatch.setattr(bench, "Device", Device)
    return Device


def test_time_is_set_against_the_cards_own_copies(
    device: type[Device], capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(["--kernel", "mask", "--kernel", "slot_similarity"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert report["copy_bytes_per_s"] == pytest.approx(bench.COPY_BYTES / MS * 1e3)
    rows = {row["kernel"]: row for row in report["kernels"]}
    assert set(rows) == {"mask", "slot_similarity"}
    similarity = rows["slot_similarity"]
    assert similarity["bytes"] == 4 * 33 * 256 * 1024 + 8 * 32 + 4 * 32
    assert similarity["share_of_copy"] == pytest.approx(
        similarity["bytes"] / bench.COPY_BYTES, abs=1e-3
    )
    assert sum(line.startswith("| ") for line in table) == 3


def test_a_kernel_that_is_wrong_is_not_timed(
    device: type[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "off_by", 1)
    with pytest.raises(Mismatch, match="mask is off by"):
        bench.main(["--kernel", "mask"])


def test_a_kernel_that_gives_nan_is_wrong(
    device: type[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "off_by", float("nan"))
    with pytest.raises(Mismatch, match="slot_similarity is off by nan"):
        bench.main(["--kernel", "slot_similarity"])


def test_without_a_device_one_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise NoDevice("no driver")

    monkeypatch.setattr(bench, "Device", none)
    with pytest.raises(BackendUnavailable, match="no driver") as refused:
        bench.main([])
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_workload_fits_the_limits_of_a_launch(kernel: Kernel) -> None:
    case = kernel.workload()
    assert kernel.bytes_moved(case) > 2**20
    for launch in kernel.planned(case):
        assert all(1 <= n <= most for n, most in zip(launch.grid, LARGEST_GRID, strict=True))
        assert 1 <= int(np.prod(launch.block)) <= LARGEST_BLOCK
