"""`python -m benchmarks cohort-faults`: a cohort on two nodes; a worker, the command and a node are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.overlap import dice
from benchmarks.speed.cohort_studies import write_studies
from runtime.cohort.ledger import DONE, WAITING, Ledger
from runtime.devices.machine import machine_name
from runtime.errors import Mismatch, Sam2Error
from runtime.io.read import read_volume
from runtime.io.volumes.npz import read_npz_labels
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks cohort-faults --lesions ct_lesion/ > benchmarks/results/cohort-faults.json
  python -m benchmarks cohort-faults --phantoms 20

Phantoms of 96 pixels and 12 to 24 slices, whatever labelled .npz are in --lesions, and files that are broken in several
ways are one cohort on a local Ray cluster of two nodes with a worker each. A worker is killed (SIGKILL), then the
command itself; the same command goes on, and a node is killed. In the end every study has to have its row with the
right exit code, each object one row and as many voxels as it says, and what was done before the kill the same file.
Exit code 1 where anything of this is not so. The last line is JSON.
"""
PATIENCE_S = 600.0  # for whatever comes next
MARK = "MEDSAM2_BENCHMARK_OF_FAULTS"
STORE_BYTES = 80 << 20
SHARES = {"worker killed": 0.2, "driver killed": 0.4, "node lost": 0.6}
"""What happens, and after which share of the studies."""
FAULTS = "without_row", "of_no_study", "twice", "waiting", "wrong_code", "wrong_mask", "done_anew"
"""What nothing should be told of."""


@dataclass(frozen=True, slots=True)
class TwoNodes:
    """A local cluster of a head and a node, each with room for a worker.

    Attributes:
        address: of the cluster.
        raylet: process that is the second node.
    """

    address: str
    raylet: int

    def workers(self) -> list[int]:
        """Processes that hold a model."""
        found, mark = [], os.environ[MARK].encode()
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                is_ours = mark in (folder / "environ").read_bytes()
                if is_ours and b"ray::Actor" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """The cluster, which is ended in any case."""
    os.environ |= {MARK: uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": STORE_BYTES}
    head = {"num_cpus": 1, "include_dashboard": False, **store}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, **store)
        yield TwoNodes(cluster.address, node.all_processes["raylet"][0].process.pid)
    finally:
        with suppress(AssertionError, OSError):  # of the node that was killed
            cluster.shutdown()


class CommandRun:
    """The command on the cluster, in a process of its own.

    Args:
        studies, output: folders.
        address: of the cluster.
    """

    def __init__(self, studies: Path, output: Path, address: str) -> None:
        words = ["-i", str(studies), "-o", str(output), "--address", address, "--workers", "2"]
        words += ["--backend", "ort", "--no-previews"]
        self._began, self._output, self._log = time.monotonic(), output, output.parent / "log"
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "runtime.cohort", *words]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)

    def until(self, count: int) -> float:
        """Wait for so many settled studies. Returns seconds since the start."""
        until(lambda: self.process.poll() is not None or num_settled(self._output) >= count)
        if self.process.poll() is not None:
            raise Sam2Error(f"the run was over before {count} studies were:\n{self.said()}")
        return round(time.monotonic() - self._began, 1)

    def end(self) -> tuple[int, str]:
        """Exit code and stdout."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode()

    def said(self) -> str:
        """What it has written to stderr, with what those before it have."""
        return self._log.read_text(errors="replace")


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so. Raises Sam2Error where it takes too long."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            raise Sam2Error(f"nothing has come for {PATIENCE_S:g} s")
        time.sleep(0.05)


def num_settled(output: Path) -> int:
    """Studies that do not wait any more, as the ledger has it."""
    if not (output / "cohort.sqlite").is_file():
        return 0
    with suppress(Sam2Error):  # it is being made
        ledger = Ledger(output)
        counts = ledger.counts()
        ledger.close()
        return counts.done + counts.failed
    return 0


def stamps(output: Path) -> dict[str, int]:
    """When each mask of a study that is done was written, in nanoseconds."""
    ledger = Ledger(output)
    rows = [row for row in ledger.rows() if row["state"] == DONE]
    ledger.close()
    return {row["mask"]: (output / row["mask"]).stat().st_mtime_ns for row in rows}


def judged(
    rows: Sequence[Mapping[str, Any]], codes: Mapping[str, int], output: Path, studies: Path
) -> dict[str, Any]:
    """What is wrong with the rows of results.parquet, by kind, and how good the masks are.

    Args:
        rows: of the table.
        codes: exit code that each study should have.
        output, studies: folders.
    """
    there = {row["study"]: row["exit_code"] for row in rows}
    count = Counter((row["study"], row["object"]) for row in rows)
    wrong, scores = [], []
    for name in [name for name, code in codes.items() if code == 0 and there.get(name) == 0]:
        own = {row["object"]: row for row in rows if row["study"] == name}
        truth = read_npz_labels(studies / f"{name}.npz")
        mask = read_volume(output / next(iter(own.values()))["mask"]).array
        if own.keys() != {int(i) for i in np.unique(truth[truth > 0])} or not _holds(mask, own):
            wrong.append(name)
        scores += [dice(mask == i, truth == i) for i in own]
    return {
        "without_row": sorted(codes.keys() - there.keys()),
        "of_no_study": sorted(there.keys() - codes.keys()),
        "twice": sorted(name for (name, _), n in count.items() if n > 1),
        "waiting": sorted(row["study"] for row in rows if row["state"] == WAITING),
        "wrong_code": {n: there[n] for n in sorted(there) if there[n] != codes.get(n)},
        "wrong_mask": wrong,
        "mean_dice": round(float(np.mean(scores)), 4) if scores else None,
    }


def _holds(mask: NDArray[Any], rows: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether a label map has as many voxels as its rows say; where objects overlap, one of them has the voxel."""
    drawn = {i: int(np.count_nonzero(mask == i)) for i in rows}
    told = {i: int(row["voxels"]) for i, row in rows.items()}
    return all(drawn[i] <= told[i] for i in rows) and sum(drawn.values()) >= max(told.values())


def suffer(studies: Path, output: Path, nodes: TwoNodes, num: int) -> dict[str, Any]:
    """Run the cohort to its end through everything. Returns what happened when."""
    at, happened = {name: int(share * num) for name, share in SHARES.items()}, {}
    first = CommandRun(studies, output, nodes.address)
    happened["worker killed"] = first.until(at["worker killed"])
    until(nodes.workers)
    os.kill(nodes.workers()[0], signal.SIGKILL)
    happened["driver killed"] = first.until(at["driver killed"])
    first.process.kill()
    first.process.wait()
    before = stamps(output)
    second = CommandRun(studies, output, nodes.address)
    happened["node lost"] = second.until(at["node lost"])
    os.kill(nodes.raylet, signal.SIGKILL)
    code, said = second.end()
    if code:
        raise Sam2Error(f"the command left with {code}:\n{second.said()}")
    after = stamps(output)
    return {
        "happened_s": happened,
        "seconds": round(time.monotonic() - second._began, 1),
        "done_before_driver_was_killed": len(before),
        "done_anew": sorted(mask for mask in before if after.get(mask) != before[mask]),
        "lost": [line[-90:] for line in second.said().splitlines() if "worker was lost" in line],
        "said": json.loads(said.splitlines()[-1])["studies"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Raises Mismatch where anything was lost, done twice or told wrongly."""
    p = command_parser("python -m benchmarks cohort-faults", "Try a cohort's promises.", EXAMPLES)
    p.add_argument("--phantoms", type=int, default=200, help="default: %(default)s")
    p.add_argument("--lesions", type=Path, metavar="FOLDER", help="with .npz of imgs and gts")
    args = p.parse_args(arguments)
    from pyarrow import parquet

    with TemporaryDirectory(prefix="medsam2-faults-") as parent:
        studies, output = Path(parent) / "studies", Path(parent) / "out"
        codes = write_studies(studies, args.phantoms, args.lesions)
        with two_nodes() as nodes:
            told = suffer(studies, output, nodes, len(codes))
        rows = parquet.read_table(output / "results.parquet").to_pylist()
        verdict = judged(rows, codes, output, studies)
    good = sum(code == 0 for code in codes.values())
    kinds = {"good": good, "broken": len(codes) - good}
    print_result(
        {"machine": machine_name(), "studies": kinds, "rows": len(rows), **told, **verdict}
    )
    faults = {name: what for name, what in (told | verdict).items() if name in FAULTS and what}
    if told["said"] != {"done": kinds["good"], "failed": kinds["broken"], "waiting": 0}:
        faults["said"] = told["said"]
    if faults:
        raise Mismatch(f"a cohort broke its promises: {faults}")
