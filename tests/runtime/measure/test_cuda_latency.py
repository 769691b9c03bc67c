"""Measuring on a device: every figure is there and adds up, whether steps are replayed or not."""

from __future__ import annotations

import json

import pytest

from runtime.commands import bench
from runtime.errors import InputError
from runtime.measure.cuda_latency import time_on_device
from runtime.measure.latency import STAGES, bench_phantom
from runtime.model import load
from runtime.steps.cuda.steps import CudaSteps
from tests.cuda import on_device
from tests.kernels import on_host

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")


@pytest.mark.parametrize("replays", [True, False])
def test_steps_are_the_devices_time_and_the_hosts(replays: bool) -> None:
    model, device = on_device(load(None, "ort", 1).plain(), replays=replays)
    measured = time_on_device(model, bench_phantom(3, 64), 2, None, 1)
    assert len(measured.run.steps_ms) == 3
    for step in measured.run.steps_ms:
        assert step["device"] > 0
        assert step["device"] + step["host"] == pytest.approx(step["total"])
    assert all(measured.stages_ms[stage] > 0 for stage in STAGES.values())
    assert measured.volume_ms > 0 and measured.device_memory_mib > 0
    assert (measured.launches_per_step is not None) == replays == (device.launches > 0)
    assert {key[1] for key in measured.run.logits} == {1, 2}


def test_the_report_tells_whole_volumes_launches_and_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "load", lambda *rest: on_device(load(None, "ort", 1).plain())[0])
    bench.main(["--slices", "3", "--repeat", "1", "--image-size", "64"])
    *lines, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert list(report["latency_ms"]) == [*STAGES.values(), "device", "host", "total"]
    assert report["launches_per_step"] > 8 and report["volume_slices"] == 7
    assert report["volume_ms"] > report["latency_ms"]["total"]["mean"]
    assert report["cold_first_mask_ms"] > 0 and report["load_s"] > 0
    mean_ms = report["latency_ms"]["total"]["mean"]
    assert report["slices_per_second"] == pytest.approx(1e3 / mean_ms, rel=0.01)
    assert any("7 slices in both directions" in line for line in lines)


def test_steps_of_exact_lengths_are_shapes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {}
    for lengths in ("full", "exact"):
        model, _ = on_device(load(None, "ort", 1).plain())
        monkeypatch.setattr(bench, "load", lambda *rest, model=model: model)
        bench.main(["--slices", "3", "--repeat", "1", "--image-size", "64", "--lengths", lengths])
        assert isinstance(model.steps, CudaSteps)
        shapes[lengths] = {key[0][1] for key in model.steps._replays.steps}
    capsys.readouterr()
    assert shapes == {"full": {7}, "exact": {1, 2, 3}}
    monkeypatch.setattr(bench, "load", lambda *rest: load(None, "ort", 1).plain())
    with pytest.raises(InputError, match="on the host there is nothing else"):
        bench.main(["--slices", "3", "--lengths", "exact"])
