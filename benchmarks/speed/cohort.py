"""`python -m benchmarks cohort`: studies an hour by workers, what the driver keeps, and what a study costs beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from tqdm import trange

from benchmarks.speed.soak import resident_mib
from runtime.devices.machine import machine_name
from runtime.errors import InputError, Sam2Error
from runtime.files.atomic import write_whole
from runtime.measure.phantom import make_phantom
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks cohort --studies 1000 --shape 3,64,64 --workers 2
  python -m benchmarks cohort --studies 40 --shape 24,256,256 --workers 1,2
  python -m benchmarks cohort --studies 40 --folder studies/ --workers 2

Each number of workers is a run of medsam2 cohort in a process of its own, with one thread for each worker, over
phantoms (or, with --folder, over studies that are there). Memory and processor time of the driver are read while it
runs. Before and after each run medsam2 segment's work alone, its model loaded, is done on the same studies, which is
what overheads are over. Times of processors hold on a machine that is busy with other things too. The last line is
JSON.
"""
ALONE = "from benchmarks.speed.cohort_alone import main; main()"
EVERY_S = 0.25  # between looks at memory
SETTLED = 0.2  # share of the time after which the driver should grow no more


def write_studies(folder: Path, count: int, shape: tuple[int, int, int], num_objects: int) -> None:
    """Labelled phantoms; all of a run are of one size, and differ."""
    for number in trange(count, desc="phantoms", unit="study", file=sys.stderr):
        phantom = make_phantom(shape, seed=number)
        labels = np.where(phantom.labels <= num_objects, phantom.labels, 0)
        arrays = {"imgs": phantom.pixels, "gts": labels.astype(np.uint8)}
        write_whole(
            folder / f"study{number:06}.npz",
            lambda part, arrays=arrays: np.savez(part, **arrays),
        )


@dataclass(frozen=True, slots=True)
class DriverLook:
    """At the driver's process: when (seconds since 1970), resident MiB, seconds of processors so far."""

    at_s: float
    mib: float
    cpu_s: float


def look_at(pid: int) -> DriverLook:
    """A look. Raises InputError where the process is gone, or the system does not tell."""
    mib = resident_mib(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise InputError("times of processes are read from /proc, which is not here") from error
    return DriverLook(
        time.time(), mib, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    )


def run(words: Sequence[str]) -> tuple[float, list[DriverLook]]:
    """The command's wall time in seconds, and looks at its process while it ran. Raises Sam2Error."""
    command = [sys.executable, "-m", "runtime.cohort", *words]
    looks = []
    began = time.perf_counter()
    with TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            with suppress(InputError):  # it has ended in between
                looks.append(look_at(process.pid))
            time.sleep(EVERY_S)
        took_s = time.perf_counter() - began
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    if process.returncode:
        raise Sam2Error(f"{' '.join(command)} failed: {lines[-1] if lines else ''}")
    return took_s, looks


def alone(studies: Path, output: Path, backend: str, draws: bool) -> dict[str, float]:
    """Milliseconds of a study, of the wall and of processors, in one process without a cohort."""
    words = [str(studies), str(output), backend, "draws" if draws else "none"]
    command = [sys.executable, "-c", ALONE, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def overhead(
    run: Mapping[str, Any], beside: Sequence[Mapping[str, float]]
) -> dict[str, float | list[Mapping[str, float]]]:
    """What a study of a run takes more than alone, in percent of that: of a worker's time, and of its processors'.

    Args:
        run: as `figures` gives it.
        beside: as `alone` gives them, before and after it.
    """
    wall_ms, cpu_ms = (
        float(np.mean([told[name] for told in beside])) for name in ("per_study_ms", "cpu_ms")
    )
    return {
        "alone": list(beside),
        "overhead_percent": round(100 * (run["worker_ms"] / wall_ms - 1), 2),
        "overhead_cpu_percent": round(100 * (run["cpu_ms"] / cpu_ms - 1), 2),
    }


def figures(
    num_workers: int,
    wall_s: float,
    looks: Sequence[DriverLook],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a run tells.

    `per_study_ms` is the workers' own time of a study, all stages, `cpu_ms` their processors'; `beside_ms` what a study
    costs a worker beside it, once the first one is done: to be handed out, written down and waited for; `worker_ms`
    both, from the end of each worker's first study to that of its last; `driver_cpu_ms` what it costs the driver.
    """
    studies = {row["study"]: row for row in rows if row["state"] == "done"}
    total_ms = [row["ms_total"] for row in studies.values()]
    ended = [row["ended"].replace(tzinfo=UTC).timestamp() for row in studies.values()]
    busy_s = max(ended) - min(ended)
    own_s = (sum(total_ms) - total_ms[int(np.argmin(ended))]) / 1000
    after = max(len(studies) - 1, 1)
    spans = [
        _span_of(studies.values(), worker) for worker in {r["worker"] for r in studies.values()}
    ]
    worker_ms = 1000 * sum(s for s, _ in spans) / max(sum(n for _, n in spans), 1)
    settled_s = min(ended) + SETTLED * busy_s
    seen = [look for look in looks if settled_s <= look.at_s <= max(ended)]
    return {
        "workers": num_workers,
        "studies": len(studies),
        "wall_s": round(wall_s, 2),
        "start_s": round(wall_s - busy_s, 2),
        "studies_per_hour": round(3600e3 * num_workers / max(worker_ms, 1e-6)),
        "per_study_ms": round(float(np.mean(total_ms)), 1),
        "worker_ms": round(worker_ms, 1),
        "beside_ms": round(1000 * (busy_s * num_workers - own_s) / after, 1),
        "cpu_ms": round(float(np.mean([row["ms_cpu"] for row in studies.values()])), 1),
        "stages_ms": {
            name.removeprefix("ms_"): round(
                float(np.mean([row[name] for row in studies.values()])), 1
            )
            for name in rows[0]
            if name.startswith("ms_") and name not in ("ms_total", "ms_cpu")
        },
        **_driver(seen, after),
    }


def _span_of(studies: Iterable[Mapping[str, Any]], worker: str) -> tuple[float, int]:
    """Seconds from the end of a worker's first study to that of its last, and how many it did in them."""
    ended = [row["ended"].timestamp() for row in studies if row["worker"] == worker]
    return max(ended) - min(ended), len(ended) - 1


def _driver(looks: Sequence[DriverLook], num_studies: int) -> dict[str, Any]:
    """What the driver took from the first look to the last, between which were `1 - SETTLED` of the studies."""
    if len(looks) < 2:
        return {}
    first, last = looks[0], looks[-1]
    cpu_ms = 1000 * (last.cpu_s - first.cpu_s) / (num_studies * (1 - SETTLED))
    mib = {"settled": round(first.mib, 1), "end": round(last.mib, 1)}
    return {"driver_cpu_ms": round(cpu_ms, 2), "driver_mib": mib}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = command_parser("python -m benchmarks cohort", "Measure medsam2 cohort.", EXAMPLES)
    p.add_argument("--studies", type=int, default=100, help="default: %(default)s")
    p.add_argument("--shape", default="3,64,64", metavar="Z,Y,X", help="default: %(default)s")
    p.add_argument("--objects", type=int, default=1, help="of each study (%(default)s)")
    p.add_argument("--folder", type=Path, help="of studies that are there, in place of phantoms")
    p.add_argument("--workers", default="1,2", metavar="N,N", help="default: %(default)s")
    p.add_argument("--backend", default="ort", help="default: %(default)s")
    p.add_argument("--no-previews", action="store_true", help="as for medsam2 cohort")
    args = p.parse_args(arguments)
    from pyarrow import parquet

    try:
        depth, height, width = map(int, args.shape.split(","))
        workers = [int(part) for part in args.workers.split(",")]
    except ValueError as error:
        raise InputError(
            f"found --shape {args.shape} and --workers {args.workers}; wanted numbers"
        ) from error
    found = []
    with TemporaryDirectory(prefix="medsam2-cohort-") as parent:
        studies = args.folder or Path(parent) / "studies"
        if args.folder is None:
            studies.mkdir()
            write_studies(studies, args.studies, (depth, height, width), args.objects)
        draws = not args.no_previews
        before = alone(studies, Path(parent) / "alone", args.backend, draws)
        for count in workers:
            output = Path(parent) / f"out{count}"
            words = ["-i", str(studies), "-o", str(output), "--workers", str(count)]
            words += ["--backend", args.backend, *(["--no-previews"] if args.no_previews else [])]
            wall_s, looks = run(words)
            rows = parquet.read_table(output / "results.parquet").to_pylist()
            told = figures(count, wall_s, looks, rows)
            after = alone(studies, Path(parent) / "alone", args.backend, draws)
            found.append(told | overhead(told, (before, after)))
            before = after
            print(json.dumps(found[-1]), file=sys.stderr)
    about = {"machine": machine_name(), "shape": args.shape, "objects": args.objects}
    print_result({**about, "runs": found})
