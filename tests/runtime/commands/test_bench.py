from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest

from runtime.backends import open_backend
from runtime.bundle.bundle import open_bundle
from runtime.commands import bench
from runtime.commands.options import parse_bytes
from runtime.errors import InputError
from runtime.files.cache import VARIABLE
from runtime.measure.latency import (
    COLUMNS,
    Stopwatch,
    TimedRun,
    bench_phantom,
    percent_of_roofline,
    steady,
    time_propagation,
    time_volume,
)
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
    assert report["volume_slices"] == 2 * 3 + 1 and report["volume_ms"] > 0
    assert any("slices/s" in line for line in lines[:-1])


@pytest.mark.parametrize(
    ("option", "wrong", "wanted"),
    [
        ("--slices", "0", "1 to 100000"),
        ("--slices", "1" + "0" * 20, "1 to 100000"),
        ("--objects", "0", "1 to 10000"),
        ("--objects", "10001", "1 to 10000"),
        ("--image-size", "31", "32 to 8192"),
        ("--image-size", "1" + "0" * 22, "32 to 8192"),
        ("--repeat", "0", "--repeat 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_an_error(option: str, wrong: str, wanted: str) -> None:
    with pytest.raises(InputError, match=f"wanted {wanted}"):
        bench.main([option, wrong])


def test_stages_and_host_add_up_to_the_whole_step() -> None:
    model, _ = fake_model()
    run = time_propagation(model, bench_phantom(4, 64), num_objects=2)
    assert len(run.steps_ms) == 4
    for step in run.steps_ms:
        parts = sum(step[name] for name in COLUMNS if name != "total")
        assert parts == pytest.approx(step["total"])
    assert len(run.logits) == 2 * 5  # the prompted slice and four more, of two objects


def test_a_volume_is_followed_both_ways_as_one_batch() -> None:
    model, backend = fake_model()
    assert time_volume(model, bench_phantom(4, 64), num_objects=2) > 0
    batches = [len(c.inputs["memory"]) for c in backend.calls if c.graph == "memory_attention"]
    assert batches == [2 * 2] * 4, "two objects, two directions"
    encoded = sum(len(c.inputs["image"]) for c in backend.calls if c.graph == "image_encoder")
    assert encoded == 9


def test_only_steps_with_a_full_memory_are_counted_if_there_are_any() -> None:
    steps = [{"total": float(i)} for i in range(10)]
    assert [s["total"] for s in steady([TimedRun(steps, 0.0, {})], num_maskmem=7)] == [6, 7, 8, 9]
    assert len(steady([TimedRun(steps[:4], 0.0, {})], num_maskmem=7)) == 4


def test_a_lap_starts_anew() -> None:
    watch = Stopwatch()
    watch("image_encoder", {}, {}, 2.0)
    watch("image_encoder", {}, {}, 3.0)
    watch("mask_decoder", {}, {}, 1.0)
    assert watch.lap() == {"encode": 5.0, "decode": 1.0}
    assert watch.lap() == {}


def test_prompted_slices_are_read_by_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, backend = fake_model()
    time_propagation(model, bench_phantom(4, 64), num_objects=1, num_prompted=3)
    lengths = [c.inputs["memory"].shape[1] for c in backend.calls if c.graph == "memory_attention"]
    assert lengths == [3, 4, 5, 6]


def test_a_second_prompt_does_not_encode_and_leaves_no_trace() -> None:
    model, backend = fake_model()
    run = time_propagation(model, bench_phantom(2, 64), num_objects=1)
    assert run.second_prompt_ms > 0
    graphs = [call.graph for call in backend.calls]
    assert graphs[:3] == ["image_encoder", "mask_decoder", "mask_decoder"]
    assert {object_id for _, object_id in run.logits} == {1}


def test_more_objects_than_the_phantom_has_are_its_own_again() -> None:
    model, backend = fake_model()
    run = time_propagation(model, bench_phantom(1, 64), num_objects=5)
    assert {object_id for _, object_id in run.logits} == {1, 2, 3, 4, 5}
    boxes = [c.inputs["point_coords"] for c in backend.calls if c.graph == "mask_decoder"][2:7]
    assert np.array_equal(boxes[0], boxes[3]) and not np.array_equal(boxes[0], boxes[1])


@pytest.mark.parametrize(("hint", "backend"), [("latency", "ort"), ("throughput", "openvino")])
def test_options_of_the_model_reach_it(
    hint: str, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main([*SMALL, "--hint", hint, "--backend", backend, "--max-memory", "2M"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["second_prompt_ms"] > 0 and report["feature_mib_per_slice"] == 0.75
    assert report["backend"].startswith("OpenVINO") == (backend == "openvino")


@pytest.mark.parametrize(("hint", "says"), [("throughput", "0"), ("latency", None)])
def test_a_hint_decides_whether_threads_spin(
    hint: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {}
    add = onnxruntime.SessionOptions.add_session_config_entry

    def record(options: onnxruntime.SessionOptions, key: str, value: str) -> None:
        entries[key] = value
        add(options, key, value)

    monkeypatch.setattr(onnxruntime.SessionOptions, "add_session_config_entry", record)
    open_backend("ort", open_bundle(), None, hint).load("memory_encoder")
    assert entries.get("session.intra_op.allow_spinning") == says


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_openvino_is_given_the_hint(hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, compile_model = [], openvino.Core.compile_model

    def record(core: openvino.Core, model: Any, device: str, options: dict[str, Any]) -> Any:
        given.append(options["PERFORMANCE_HINT"])
        return compile_model(core, model, device, options)

    monkeypatch.setattr(openvino.Core, "compile_model", record)
    monkeypatch.setenv(VARIABLE, "")  # what was compiled before is not compiled
    open_backend("openvino", open_bundle(), None, hint).load("image_encoder")
    assert given == [hint.upper()]


def test_prompted_slices_and_room_reach_every_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, backend = fake_model()
    monkeypatch.setattr(bench, "load", lambda *asked: opened.append(asked) or model)
    volumes = []
    monkeypatch.setattr(bench, "time_volume", lambda *asked: volumes.append(asked[3]) or 1.0)
    encoded, opened = [], []
    for room in ("1", "1G"):
        backend.calls.clear()
        words = ["--prompted", "3", "--max-memory", room, "--threads", "2"]
        bench.main([*SMALL, *words, "--hint", "throughput"])
        encoded.append(sum(call.graph == "image_encoder" for call in backend.calls))
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["prompted"] == 3
        read = [c.inputs["memory"].shape[1] for c in backend.calls if c.graph == "memory_attention"]
        assert read == 2 * [3, 4, 5]
    assert encoded[0] > encoded[1] == 2 * (3 + 3)
    assert opened == 2 * [(None, "auto", 2, "throughput")]
    assert volumes == [1, 1, 2**30, 2**30]


def test_the_first_pass_warms_up_and_each_prompt_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = dict.fromkeys(COLUMNS, 3.0)
    passes = iter([TimedRun([step], 900.0, {}, 800.0), TimedRun([step], 9.0, {}, 2.0)])
    monkeypatch.setattr(bench, "time_propagation", lambda *_: next(passes))
    volumes_ms = iter([700.0, 35.0])
    monkeypatch.setattr(bench, "time_volume", lambda *_: next(volumes_ms))
    bench.main(SMALL)
    table, last = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    report = json.loads(last)
    assert (report["first_mask_ms"], report["second_prompt_ms"]) == (9.0, 2.0)
    assert "after 9.0 ms, of another prompt on that slice after 2.0 ms" in table
    assert "a volume of 7 slices in both directions 35.0 ms, 5.0 a slice\n" in table


@pytest.mark.parametrize("words", [[], ["--objects", "3", "--prompted", "2", "--repeat", "2"]])
def test_the_bar_knows_how_many_slices_there_are_and_goes_slice_by_slice(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = fake_model()
    monkeypatch.setattr(bench, "load", lambda *asked: model)
    monkeypatch.setattr(bench, "DRAWN_EVERY_S", 0.0)
    bench.main([*SMALL, *words])
    total = (3 if words else 2) * (3 + 7)  # passes of three steps and a volume of seven slices
    shown = capsys.readouterr().err
    assert all(f" {count}/{total} " in shown for count in range(total + 1))
    assert "slice/s]" in shown


@pytest.mark.parametrize("prompted", ["0", "5"])
def test_prompted_slices_must_be_there(prompted: str) -> None:
    with pytest.raises(InputError, match="wanted 1 to 4"):
        bench.main([*SMALL, "--prompted", prompted])


@pytest.mark.parametrize(
    ("text", "count"),
    [("123", 123), ("800M", 800 * 2**20), ("1.5g", 3 * 2**29), ("4GiB", 2**32), (" 2 K", None)],
)
def test_a_size_is_read_with_its_unit(text: str, count: int | None) -> None:
    if count is None:
        with pytest.raises(argparse.ArgumentTypeError, match="800M or 4G"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == count
    assert parse_bytes("9" * 400 + "G") == 2**62


@pytest.mark.parametrize("text", ["", "4T", "-1", "x", "1.G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="wanted a size"):
        parse_bytes(text)


def test_engines_serve_again_when_a_model_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, backend = fake_model()
    loaded, load_graph = [], backend.load

    def count(graph: str) -> Any:
        loaded.append(graph)
        return load_graph(graph)

    monkeypatch.setattr(backend, "load", count)
    for _ in range(2):
        model.observed(lambda *args: None).encode(np.zeros((1, 3, 64, 64), np.float32))
    assert loaded == ["image_encoder"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems start afresh")
def test_peak_memory_is_not_that_of_the_process_before() -> None:
    held = np.ones(300 * 2**20, np.uint8)
    command = "from runtime.devices.machine import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert held.all() and 0 < float(done.stdout) < 200


def test_stages_are_held_against_a_roofline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floors = {stage: {"floor_ms": 0.5} for stage in ("encode", "total")}
    # As > in Windows' PowerShell writes it.
    (tmp_path / "floors.json").write_text(json.dumps({"stages": floors}), "utf-16")
    bench.main([*SMALL, "--threads", "1", "--roofline", str(tmp_path / "floors.json")])
    out = capsys.readouterr().out
    report = json.loads(out.strip().splitlines()[-1])
    total_ms = report["latency_ms"]["total"]["median"]
    assert report["percent_of_roofline"].keys() == {"encode", "total"}
    assert report["percent_of_roofline"]["total"] == pytest.approx(50 / total_ms, abs=0.01)
    assert out.count("% of the roofline") == 2


@pytest.mark.parametrize(
    "text", ["", "{}", '{"stages": {"sleep": {}}}', '{"stages": {"total": 1}}']
)
def test_what_is_no_roofline_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "floors.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no report of python -m benchmarks roofline"):
        bench.main([*SMALL, "--roofline", str(path)])
    with pytest.raises(InputError, match="No such file"):
        bench.main([*SMALL, "--roofline", str(tmp_path / "none.json")])


def test_a_stage_that_takes_no_time_has_no_percentage() -> None:
    row = {"floor_ms": 1.0}
    latency_ms = {"encode": {"median": 0.0}, "total": {"mean": 4.0}}
    assert percent_of_roofline(latency_ms, {"encode": row, "total": row}) == {"total": 25.0}
