"""`python -m benchmarks fuzz`: damage files and documents, read them, and count what becomes of it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from benchmarks.fuzz.pool import OUTCOMES, Tally, run_cases, until
from benchmarks.fuzz.targets import ADDRESS, TARGETS, cases, missing
from benchmarks.fuzz.worker import damaged
from runtime.devices.machine import machine_name
from runtime.errors import InputError, Mismatch
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

SHOWN = 3  # faults of a kind whose details are printed

EXAMPLES = """examples:
  python -m benchmarks fuzz --minutes 10
  python -m benchmarks fuzz --minutes 2 --targets nii,nrrd,mha
  python -m benchmarks fuzz --targets nrrd --seed 417 --keep damaged/    # one case again, its files kept

The last line is JSON. Exit code 1 if anything but 'read' and 'refused' was found.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = _parser().parse_args(arguments)
    names = args.targets.split(",") if args.targets else list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        raise InputError(f"no target '{unknown.pop()}'; there are: {', '.join(TARGETS)}")
    for name in [name for name in names if missing(name)]:
        print(f"{name} is left out: it needs {', '.join(missing(name))}", file=sys.stderr)
        names.remove(name)
    if args.keep:
        for name in names:
            print(_kept(name, args.seed, args.keep))
    if args.seed is not None:
        todo = iter([(name, args.seed) for name in names])
    else:
        todo = until(args.minutes * 60, cases(names, args.first_seed))
    with tqdm(unit="file", desc="fuzz", file=sys.stderr) as bar:

        def show(tally: Tally) -> None:
            bar.set_postfix_str(_line(tally.total), refresh=False)
            bar.update()

        tally = run_cases(todo, args.workers, ADDRESS, show)
    _print(tally)
    if tally.faults:
        raise Mismatch(
            f"{len(tally.faults)} of {tally.tried} damaged files were neither read right nor refused"
        )


def _parser() -> argparse.ArgumentParser:
    p = command_parser(
        "python -m benchmarks fuzz",
        "Damage files of every kind that is read, and count what becomes of reading them: "
        + "; ".join(f"{name}: {what}" for name, what in OUTCOMES.items())
        + ".",
        EXAMPLES,
    )
    p.add_argument("--minutes", type=float, default=2.0, help="how long (default: %(default)s)")
    p.add_argument("--targets", metavar="A,B", help=f"of {', '.join(TARGETS)} (default: all)")
    p.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="other files each time (default: 0)"
    )
    p.add_argument("--seed", type=int, metavar="N", help="this one case of each target")
    p.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="with --seed: write the damaged files there"
    )
    p.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: %(default)s)",
    )
    return p


def _kept(name: str, seed: int, folder: Path) -> Path:
    """Write the files of one case, to be looked at."""
    destination = folder / f"{name}-{seed}"
    with tempfile.TemporaryDirectory() as root:
        healthy = Path(root) / "healthy"
        healthy.mkdir()
        TARGETS[name].prepare(healthy)
        damaged(TARGETS[name], name, seed, healthy, Path(root) / "damaged")
        shutil.copytree(Path(root) / "damaged", destination, dirs_exist_ok=True)
    return destination


def _line(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])


def _print(tally: Tally) -> None:
    shown: Counter[tuple[str, str]] = Counter()
    for fault in tally.faults:
        shown[fault.target, fault.outcome] += 1
        if shown[fault.target, fault.outcome] <= SHOWN:
            print(f"\n{fault.target} --seed {fault.seed}: {fault.outcome}\n{fault.words.strip()}")
    width = max(map(len, tally.counts), default=0)
    for name, counts in sorted(tally.counts.items()):
        print(f"{name:{width}}  tried {counts.total():6}: {_line(counts)}")
    total = {name: tally.total[name] for name in OUTCOMES}
    report = {"machine": machine_name(), "tried": tally.tried, **total}
    report["targets"] = {name: dict(counts) for name, counts in sorted(tally.counts.items())}
    report["faults"] = [[f.target, f.seed, f.outcome] for f in tally.faults]
    print_result(report)
