"""`python -m benchmarks gpu-check`: everything that only a CUDA machine can tell, within a given time.

A machine is often lent for minutes. So every step is a process with a limit of its own, no step's failure stops the
next, time that one does not use goes to those after it, and the summary is written anew after each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.gpu.gpu_steps import HEADLINES, ROOT, GpuStep, Report, all_steps
from benchmarks.speed.devices import check_device, clocks
from runtime.backends import BACKENDS
from runtime.devices.machine import machine_name
from runtime.errors import BackendUnavailable, InputError, Sam2Error
from runtime.files.atomic import write_text
from runtime.measure.latency import percent_of_roofline
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
PATIENCE = 2.0  # a step may take this many times its share of what is left
RESERVE_S = 15.0  # for what comes before the first step and after the last
MAX_LINE = 160  # characters of a log's last line that are reported

EXAMPLES = """examples:
  python -m benchmarks gpu-check
  python -m benchmarks gpu-check -o out/h200 --minutes 30
  python -m benchmarks gpu-check --only 'bench-*' --minutes 3     # while tuning
  make gpu-check PYTHON_GPU=python3

DIR gets NAME.log and NAME.json of each step, and summary.json. The exit status is 0 if nothing failed; what cannot run
here, such as a back end without its package, is skipped and named.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended: its exit status, None if it had to be stopped, and the seconds it took."""

    code: int | None
    seconds: float


Runner = Callable[[Sequence[str], float, Path], Outcome]
"""Runs Python with arguments, for so many seconds at the most, its output kept in a file."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A row of the summary; `line` is the headline, or the reason why there is none."""

    step: str
    status: str
    seconds: float
    line: str
    report: Report | None = None


def run_process(arguments: Sequence[str], limit_s: float, log: Path) -> Outcome:
    """A `Runner`. A process that is stopped takes its children with it."""
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return Outcome(code, time.monotonic() - started)


class Check:
    """Steps, one after the other, within a given time.

    Args:
        folder: for logs, reports and the summary; it must be there.
        seconds: for everything.
        run: what runs a step.
        clock: seconds, as `time.monotonic`.
        facts: of the machine, for the summary.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        run: Runner = run_process,
        clock: Callable[[], float] = time.monotonic,
        facts: Report | None = None,
    ) -> None:
        self._folder, self._run, self._clock, self._facts = folder, run, clock, facts or {}
        self._end = clock() + seconds - RESERVE_S
        self.results: list[StepResult] = []

    def steps(self, steps: Sequence[GpuStep]) -> list[StepResult]:
        """Run them; the summary is on disk after each."""
        for i, step in enumerate(steps):
            left = self._end - self._clock()
            shares = sum(later.share for later in steps[i:] if not _is_made(later))
            fair_s = left * step.share / max(shares, step.share)
            result = self._step(step, min(left, PATIENCE * fair_s))
            self.results.append(result)
            print(f"{result.step}: {result.status}, {result.line}", file=sys.stderr)
            self._write()
        return self.results

    def _step(self, step: GpuStep, limit_s: float) -> StepResult:
        if reason := _idle(step):
            return StepResult(step.name, SKIPPED, 0.0, reason)
        if limit_s < step.least_s:
            return StepResult(step.name, SKIPPED, 0.0, "no time left")
        log = self._folder / f"{step.name}.log"
        try:
            outcome = self._run(step.arguments, limit_s, log)
        except OSError as error:
            return StepResult(step.name, FAILED, 0.0, str(error))
        seconds = round(outcome.seconds, 1)
        text = log.read_text("utf-8", "replace") if log.is_file() else ""
        if outcome.code is None:
            return StepResult(step.name, FAILED, seconds, f"stopped after {limit_s:.0f} s")
        report = self._report(step, text)
        if outcome.code == BackendUnavailable.exit_code:
            return StepResult(step.name, SKIPPED, seconds, f"cannot run here: {_last_line(text)}")
        if outcome.code:
            return StepResult(step.name, FAILED, seconds, _last_line(text), report)
        return StepResult(step.name, OK, seconds, _headline(step, report, text), report)

    def _report(self, step: GpuStep, text: str) -> Report | None:
        """A step's report, with percentages of the roofline where it has any, which is also written to its file."""
        report = last_json(text)
        if report is None:
            return None
        floor = f"roofline-{step.name.rpartition('-')[2]}"
        reports = {result.step: result.report for result in self.results if result.status == OK}
        if step.kind == "bench" and (roofline := reports.get(floor)):
            report["percent_of_roofline"] = percent_of_roofline(
                report["latency_ms"], roofline["stages"]
            )
        write_text(self._folder / f"{step.name}.json", json.dumps(report, indent=1) + "\n")
        return report

    def _write(self) -> None:
        steps = [asdict(result) for result in self.results]
        summary = json.dumps({**self._facts, "steps": steps}, indent=1)
        write_text(self._folder / "summary.json", summary + "\n")


def _is_made(step: GpuStep) -> bool:
    return step.makes is not None and step.makes.exists()


def _idle(step: GpuStep) -> str | None:
    """Why a step has nothing to do now, or None."""
    if _is_made(step):
        return "there already"
    if step.needs is not None and not step.needs.exists():
        return f"needs {step.needs.parent}"
    return None


def _headline(step: GpuStep, report: Report | None, text: str) -> str:
    """Of a step that went well; a report that says it in another way than expected is no failure."""
    if report is None or step.kind not in HEADLINES:
        return _last_line(text)
    try:
        return HEADLINES[step.kind](report)
    except (KeyError, TypeError, ValueError, AttributeError):
        return _last_line(text)


def last_json(text: str) -> dict[str, Any] | None:
    """The last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return None


def _last_line(text: str) -> str:
    """The last that is for people."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "{"]
    return lines[-1][:MAX_LINE] if lines else "it said nothing"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks gpu-check",
        "Test, measure and certify everything that needs a CUDA machine.",
        EXAMPLES,
    )
    p.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="default: benchmarks/results/CARD-DATE"
    )
    p.add_argument("--minutes", type=float, default=10.0, help="for everything (%(default)g)")
    p.add_argument(
        "--bundles",
        type=Path,
        metavar="DIR",
        default=ROOT / "out",
        help="with tiny512 and tiny1024, which are exported if they are not there (%(default)s)",
    )
    p.add_argument("--only", metavar="PATTERN", default="*", help="names of steps (all)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    import torch

    if not args.minutes > 0:
        raise InputError(f"found --minutes {args.minutes:g}; wanted more than 0")
    check_device("cuda")
    state = clocks()
    card = state["name"] if state else torch.cuda.get_device_name()
    folder = args.output or ROOT / "benchmarks" / "results" / f"{slug(card)}-{date.today()}"
    steps = all_steps(folder.resolve(), args.bundles.resolve(), list(BACKENDS))
    chosen = [step for step in steps if fnmatch(step.name, args.only)]
    if not chosen:
        raise InputError(f"no step '{args.only}'; there are: {', '.join(s.name for s in steps)}")
    for path in (folder, args.bundles):
        path.mkdir(parents=True, exist_ok=True)
    facts = {
        "card": card,
        "machine": machine_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "minutes": args.minutes,
        "clocks": state,
    }
    results = Check(folder, 60 * args.minutes, run_process, facts=facts).steps(chosen)
    print(table(results, facts))
    print_result({**facts, "folder": str(folder), "steps": _brief(results)})
    if failed := [result.step for result in results if result.status == FAILED]:
        raise Sam2Error(
            f"{len(failed)} of {len(results)} steps failed: {', '.join(failed)}; see {folder}"
        )


def slug(name: str) -> str:
    """A card's name for a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _brief(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """Rows without their reports, which are in files of their own."""
    return [
        {"step": r.step, "status": r.status, "seconds": r.seconds, "line": r.line} for r in results
    ]


def table(results: Sequence[StepResult], facts: Report) -> str:
    """The summary for people, in Markdown."""
    total = sum(result.seconds for result in results)
    lines = [
        f"{facts['card']}, {facts['machine']}, PyTorch {facts['torch']}, {total:.0f} s",
        "",
        "| step | | s | |",
        "|---" * 4 + "|",
    ]
    lines += [f"| {r.step} | {r.status} | {r.seconds:.1f} | {r.line} |" for r in results]
    return "\n".join(lines)
