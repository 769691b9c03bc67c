"""The check's order, budget and bookkeeping, with a runner that computes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import gpu_check
from benchmarks.gpu.gpu_check import FAILED, OK, RESERVE_S, SKIPPED, Check, Outcome, run_process
from benchmarks.gpu.gpu_steps import CUDA_BACKENDS, ROOT, GpuStep, all_steps
from benchmarks.speed import ceilings, kernels, rivals, roofline
from export import __main__ as export
from runtime.backends import BACKENDS
from runtime.commands import bench, certify
from runtime.errors import BackendUnavailable, InputError, Sam2Error

COLUMNS = ("encode", "attend", "decode", "memorise", "host", "total")
BENCH = {"latency_ms": {column: {"median": 2.0} for column in COLUMNS}}
ROOFLINE = {
    "stages": {column: {"floor_ms": 0.5, "gflop": 10.0} for column in COLUMNS if column != "host"}
}


class Machine:
    """A clock, and a runner that takes seconds and answers as it is told.

    Args:
        seconds: that steps take, by name; else one.
        codes: exit statuses, by name; else 0.
        logs: what they print, by name.
    """

    def __init__(
        self,
        seconds: Mapping[str, float] | None = None,
        codes: Mapping[str, int] | None = None,
        logs: Mapping[str, str] | None = None,
    ) -> None:
        self.now, self.limits = 0.0, dict[str, float]()
        self._seconds, self._codes, self._logs = seconds or {}, codes or {}, logs or {}

    def clock(self) -> float:
        return self.now

    def run(self, arguments: Sequence[str], limit_s: float, log: Path) -> Outcome:
        name = log.stem
        self.limits[name] = limit_s
        log.write_text(self._logs.get(name, f"{name} done"))
        taken = self._seconds.get(name, 1.0)
        self.now += min(taken, limit_s)
        if taken > limit_s:
            return Outcome(None, limit_s)
        return Outcome(self._codes.get(name, 0), taken)


def step(
    name: str, share: float = 10, least_s: float = 1, kind: str = "", **files: Path
) -> GpuStep:
    return GpuStep(name, ("-c", "pass"), kind, share, least_s, **files)


def check(folder: Path, machine: Machine, seconds: float, *steps: GpuStep) -> dict[str, Any]:
    """Status and line by step."""
    run = Check(folder, seconds + RESERVE_S, machine.run, machine.clock)
    return {result.step: (result.status, result.line) for result in run.steps(steps)}


def test_a_failure_does_not_stop_the_next(tmp_path: Path) -> None:
    machine = Machine(codes={"a": 1}, logs={"a": "Traceback\nValueError: wrong\n"})
    found = check(tmp_path, machine, 100, step("a"), step("b"))
    assert found == {"a": (FAILED, "ValueError: wrong"), "b": (OK, "b done")}


def test_what_cannot_run_here_is_skipped_with_its_reason(tmp_path: Path) -> None:
    machine = Machine(codes={"a": 5}, logs={"a": "error: no TensorRT here"})
    assert check(tmp_path, machine, 100, step("a"))["a"] == (
        SKIPPED,
        "cannot run here: error: no TensorRT here",
    )


def test_a_step_that_cannot_even_begin_has_failed(tmp_path: Path) -> None:
    def breaks(arguments: Sequence[str], limit_s: float, log: Path) -> Outcome:
        raise OSError("no more processes")

    (result,) = Check(tmp_path, 100, breaks).steps([step("a")])
    assert (result.status, result.line) == (FAILED, "no more processes")


def test_time_is_shared_and_what_is_left_over_goes_on(tmp_path: Path) -> None:
    machine = Machine(seconds={"a": 10})
    check(tmp_path, machine, 100, step("a", 10), step("b", 30), step("c", 60))
    assert machine.limits["a"] == pytest.approx(2 * 100 * 10 / 100)
    assert machine.limits["b"] == pytest.approx(2 * 90 * 30 / 90)
    assert machine.limits["c"] == pytest.approx(89), "never more than there is"


def test_a_step_beyond_its_limit_is_stopped_and_the_rest_has_time(tmp_path: Path) -> None:
    machine = Machine(seconds={"a": 1e6})
    found = check(tmp_path, machine, 100, step("a", 20), step("b", 80))
    assert found["a"] == (FAILED, "stopped after 40 s") and found["b"][0] == OK
    assert machine.limits["b"] == pytest.approx(60)


@pytest.mark.parametrize("hungry", [0.5, 1e6])
def test_it_never_takes_longer_than_it_may(tmp_path: Path, hungry: float) -> None:
    steps = all_steps(tmp_path, tmp_path, CUDA_BACKENDS)
    for size in (512, 1024):
        (tmp_path / f"tiny{size}").mkdir()
        (tmp_path / f"tiny{size}" / "manifest.json").touch()
    machine = Machine(seconds={one.name: hungry for one in steps})
    results = Check(tmp_path, 600, machine.run, machine.clock).steps(steps)
    assert len(results) == len(steps) and machine.now <= 600 - RESERVE_S + 1e-6
    assert {result.status for result in results if result.seconds} == {OK if hungry < 1 else FAILED}
    if hungry > 1:
        reached = {result.step for result in results if result.seconds}
        assert {"ceilings", "kernels", "bench-trt-mixed-512"} <= reached


def test_what_no_longer_fits_is_said_to_have_had_no_time(tmp_path: Path) -> None:
    machine = Machine(seconds={"a": 95})
    found = check(tmp_path, machine, 100, step("a", 100), step("b", 1, least_s=10), step("c", 1))
    assert found["b"] == (SKIPPED, "no time left")
    assert found["c"][0] == OK, "a smaller one still fits"


def test_what_is_made_already_is_not_made_again_and_takes_no_share(tmp_path: Path) -> None:
    there = tmp_path / "manifest.json"
    there.touch()
    machine = Machine()
    found = check(tmp_path, machine, 100, step("b", 25), step("a", 75, makes=there))
    assert found["a"] == (SKIPPED, "there already")
    assert machine.limits["b"] == pytest.approx(100)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_step_waits_for_what_it_needs(tmp_path: Path, is_there: bool) -> None:
    needed = tmp_path / "tiny512" / "manifest.json"
    if is_there:
        needed.parent.mkdir()
        needed.touch()
    status, line = check(tmp_path, Machine(), 100, step("a", needs=needed))["a"]
    assert status == (OK if is_there else SKIPPED)
    assert is_there or line == f"needs {needed.parent}"


def test_reports_are_kept_and_merged(tmp_path: Path) -> None:
    logs = {
        "roofline-512": f"| table |\n{json.dumps(ROOFLINE)}\n",
        "bench-x-512": f"100%|###| 3/3\r\ntable\n{json.dumps(BENCH)}\nlogged later\n",
        "bench-x-1024": json.dumps(BENCH),
    }
    kinds = {"roofline-512": "roofline", "bench-x-512": "bench", "bench-x-1024": "bench"}
    steps = [step(name, kind=kind) for name, kind in kinds.items()]
    found = check(tmp_path, Machine(logs=logs), 100, *steps)
    assert found["roofline-512"][1] == "10 GFLOP, floor 0.500 ms"
    assert found["bench-x-512"][1] == "2.00 ms per slice, 25.0 % of roofline"
    assert found["bench-x-1024"][1] == "2.00 ms per slice", "no roofline of that size"
    report = json.loads((tmp_path / "bench-x-512.json").read_text())
    assert report["percent_of_roofline"]["attend"] == 25.0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["step"] for row in summary["steps"]] == list(kinds)
    assert summary["steps"][1]["report"] == report


def test_the_summary_is_there_after_every_step(tmp_path: Path) -> None:
    seen = []

    def run(arguments: Sequence[str], limit_s: float, log: Path) -> Outcome:
        path = tmp_path / "summary.json"
        seen.append(len(json.loads(path.read_text())["steps"]) if path.exists() else 0)
        return Outcome(0, 1.0)

    Check(tmp_path, 100, run).steps([step("a"), step("b"), step("c")])
    assert seen == [0, 1, 2]
    assert not list(tmp_path.glob("[abc].json")), "no report, no file"


@pytest.mark.parametrize("kind", ["bench", "rivals", "certify", "ceilings", "kernels", "export"])
def test_a_report_of_another_shape_is_no_failure(tmp_path: Path, kind: str) -> None:
    machine = Machine(logs={"a": 'in other words\n\n{"other": 1}'})
    assert check(tmp_path, machine, 100, step("a", kind=kind))["a"] == (OK, "in other words")
    assert json.loads((tmp_path / "a.json").read_text()) == {"other": 1}


HEADLINES = {
    "ceilings": (
        {
            "figures": {
                "copy": {"value": 4000.0},
                "bf16 8192x8192x8192": {"value": 700.0},
                "launch": {"value": 3.0},
                "graph node": {"value": 1.25},
            }
        },
        "copy 4000 GB/s, bf16 700 TFLOP/s, launch 3.0 us, graph node 1.25 us",
    ),
    "kernels": (
        {"kernels": [{"share_of_copy": 0.5}, {"share_of_copy": 0.9}]},
        "2 kernels, 50 to 90 % of copy speed",
    ),
    "export": ({"size_bytes": 150_000_000}, "150 MB"),
    "certify": (
        {
            "certificates": [
                {"passed": True, "latency_ms": 3.0, "propagation": {"a": {"lowest_dice": 0.99}}}
            ]
        },
        "passed, lowest Dice 0.9900, 3.00 ms",
    ),
    "rivals": (
        {
            "volume_slices": 128,
            "contenders": {
                "a": {"latency_ms": {"total": {"median": 2.0}}, "volume_ms": 90.0},
                "b": {"latency_ms": {"total": {"median": 20.0}}, "volume_ms": None},
            },
        },
        "ms per slice: a 2.00, b 20.00; 128 slices both ways: a 90",
    ),
}


@pytest.mark.parametrize("kind", HEADLINES)
def test_a_headline_tells_the_figures_that_count(tmp_path: Path, kind: str) -> None:
    report, line = HEADLINES[kind]
    machine = Machine(logs={"a": json.dumps(report)})
    assert check(tmp_path, machine, 100, step("a", kind=kind))["a"] == (OK, line)


def test_what_is_cheap_and_telling_comes_first(tmp_path: Path) -> None:
    names = [one.name for one in all_steps(tmp_path, tmp_path, CUDA_BACKENDS)]
    assert len(set(names)) == len(names)
    order = [
        "gpu-tests",
        "ceilings",
        "kernels",
        "export-512",
        "export-1024",
        "roofline-512",
        "build-trt-bf16-512",
        "build-trt-mixed-512",
        "build-trt-bf16-1024",
        "certify-ort-cuda-512",
        "bench-trt-mixed-512",
        "bench-ort-cuda-1024",
        "rivals-512",
        "rivals-1024",
        "rivals-vos-512",
    ]
    assert [name for name in names if name in order] == order
    assert not {"certify-trt-bf16-512", "bench-trt-fp32-1024"} & set(names)


def test_only_back_ends_that_there_are_get_steps(tmp_path: Path) -> None:
    steps = all_steps(tmp_path, tmp_path, ["ort", "ort-cuda"])
    measured = [one.name for one in steps if one.kind in ("build", "certify", "bench")]
    assert measured == ["certify-ort-cuda-512", "bench-ort-cuda-512", "bench-ort-cuda-1024"]
    (race,) = (one for one in steps if one.name == "rivals-512")
    assert "ort-cuda,torch-bf16,official-bf16,official-graph" in race.arguments


def test_tests_are_those_that_need_a_gpu(tmp_path: Path) -> None:
    arguments = all_steps(tmp_path, tmp_path, [])[0].arguments
    assert "tests/kernels/test_device.py" in arguments
    assert "tests/kernels/test_resize.py" not in arguments


def test_commands_take_the_arguments_they_are_given(tmp_path: Path) -> None:
    parsers = {
        "ceilings": ceilings.parser(),
        "kernels": kernels.parser(),
        "roofline": roofline.parser(),
        "rivals": rivals.parser(),
        "export": export.parser(),
        "certify": certify.parser(),
        "bench": bench.parser(),
    }
    asked = set()
    for one in all_steps(tmp_path, tmp_path, list(BACKENDS)):
        if one.kind in parsers:
            parsers[one.kind].parse_args(
                one.arguments[3 if one.arguments[1] == "benchmarks" else 2 :]
            )
            asked.add(one.kind)
    assert asked >= {"ceilings", "kernels", "roofline", "rivals", "export"}


def test_the_table_of_steps_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        step("a").share = 2  # type: ignore[misc]


def test_a_process_is_run_from_the_root_and_its_output_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = "import os, sys; print(os.getcwd()); print('aside', file=sys.stderr); sys.exit(3)"
    outcome = run_process(("-c", code), 60, log)
    assert outcome.code == 3 and outcome.seconds > 0
    assert set(log.read_text().split()) == {str(ROOT), "aside"}


def test_a_process_that_is_stopped_takes_its_children_with_it(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    outcome = run_process(("-c", f"{child}; print(p.pid); p.wait()"), 2, log)
    assert outcome.code is None
    pid, deadline = int(log.read_text()), time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A card that is not there."""
    found = Machine()
    monkeypatch.setattr(gpu_check, "check_device", lambda device: None)
    monkeypatch.setattr(gpu_check, "clocks", lambda: {"name": "NVIDIA H200 (141 GB)"})
    monkeypatch.setattr(gpu_check, "run_process", found.run)
    return found


def test_the_command_writes_where_it_is_told_and_ends_with_json(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bundles = tmp_path / "new" / "results", tmp_path / "bundles"
    gpu_check.main(["-o", str(folder), "--bundles", str(bundles), "--minutes", "5"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    statuses = {row["step"]: row["status"] for row in report["steps"]}
    assert statuses["ceilings"] == OK and statuses["rivals-512"] == SKIPPED
    assert report["card"] == "NVIDIA H200 (141 GB)" and report["minutes"] == 5
    assert (folder / "summary.json").is_file() and bundles.is_dir()
    assert sum(line.startswith("| ") for line in table) == 1 + len(statuses)


def test_by_default_results_are_kept_by_card_and_date(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    gpu_check.main(["--only", "ceilings"])
    assert list(machine.limits) == ["ceilings"]
    (folder,) = (tmp_path / "benchmarks" / "results").iterdir()
    assert folder.name.startswith("nvidia-h200-141-gb-20")


def test_failures_are_named_and_decide_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "run_process", Machine(codes={"kernels": 1}).run)
    with pytest.raises(Sam2Error, match=r"1 of \d+ steps failed: kernels") as failed:
        gpu_check.main(["-o", str(tmp_path), "--bundles", str(tmp_path)])
    assert failed.value.exit_code == 1


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--minutes", "nan"], ["--only", "nothing"]])
def test_nothing_to_do_is_an_error(machine: Machine, tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(InputError, match=r"wanted more than 0|no step 'nothing'; there"):
        gpu_check.main(["-o", str(tmp_path / "none"), *wrong])
    assert not (tmp_path / "none").exists()


def test_without_cuda_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="no CUDA for PyTorch here"):
        gpu_check.main([])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu-check"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 5 and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("python", [None, "/usr/bin/some-python"])
def test_make_runs_it_with_the_python_it_is_given(python: str | None) -> None:
    given = [] if python is None else [f"PYTHON_GPU={python}"]
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "gpu-check", "GPU_CHECK=--minutes 3", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        python or "python3", "-m", "benchmarks", "gpu-check", "--minutes", "3",
    ]  # fmt: skip
