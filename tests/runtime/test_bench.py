from __future__ import annotations

import json

import pytest

from runtime import bench
from runtime.errors import InputError
from runtime.latency import COLUMNS, Run, Stopwatch, bench_phantom, steady, time_propagation
from tests.fakes import fake_model

SMALL = ["--slices", "3", "--repeat", "1", "--image-size", "64"]


@pytest.mark.parametrize("objects", [1, 3])
def test_the_last_line_is_json_with_every_stage(
    objects: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main([*SMALL, "--objects", str(objects), "--threads", "1"])
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    assert list(report["latency_ms"]) == list(COLUMNS)
    assert all(0 < row["median"] <= row["p95"] for row in report["latency_ms"].values())
    assert report["steps_counted"] == 3
    assert report["slices_per_second"] == pytest.approx(
        1e3 / report["latency_ms"]["total"]["median"], rel=0.01
    )
    assert report["peak_memory_mib"] > 10 and report["first_mask_ms"] > 0
    assert any("slices/s" in line for line in lines[:-1])


@pytest.mark.parametrize("wrong", [["--slices", "0"], ["--objects", "0"], ["--repeat", "0"]])
def test_nothing_to_measure_is_an_error(wrong: list[str]) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        bench.main(wrong)


def test_stages_and_host_add_up_to_the_whole_step() -> None:
    model, _ = fake_model()
    run = time_propagation(model, bench_phantom(4, 64), num_objects=2)
    assert len(run.steps_ms) == 4
    for step in run.steps_ms:
        parts = sum(step[name] for name in COLUMNS if name != "total")
        assert parts == pytest.approx(step["total"])
    assert len(run.logits) == 2 * 5  # the prompted slice and four more, of two objects


def test_only_steps_with_a_full_memory_are_counted_if_there_are_any() -> None:
    steps = [{"total": float(i)} for i in range(10)]
    assert [s["total"] for s in steady([Run(steps, 0.0, {})], num_maskmem=7)] == [6, 7, 8, 9]
    assert len(steady([Run(steps[:4], 0.0, {})], num_maskmem=7)) == 4


def test_a_lap_starts_anew() -> None:
    watch = Stopwatch()
    watch("image_encoder", {}, {}, 2.0)
    watch("image_encoder", {}, {}, 3.0)
    watch("mask_decoder", {}, {}, 1.0)
    assert watch.lap() == {"encode": 5.0, "decode": 1.0}
    assert watch.lap() == {}
