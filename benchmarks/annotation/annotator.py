"""`python -m benchmarks annotator`: what segmenting takes by hand, with a network, and by a cohort's review queue.

A simulated person who knows the truth segments objects of held-out phantoms until their 3-D Dice is good enough. What
hands and eyes take is assumed (`benchmarks.annotation.costs`), what the network takes is measured, on sessions of the
server as viewers use them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.annotation.attempt import Habits
from benchmarks.annotation.costs import add_costs, costs_of
from benchmarks.annotation.figures import (
    WAYS,
    breakeven_vertex_s,
    efforts_of,
    orders,
    summary,
)
from benchmarks.annotation.subject import measure
from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS
from runtime import load
from runtime.bundle.bundle import open_bundle
from runtime.cohort.settings import Settings
from runtime.devices.machine import machine_name
from runtime.errors import InputError
from runtime.files.atomic import write_text
from runtime.jobs.job import Job
from runtime.memory import MemoryRules
from runtime.process.streams import print_result, sayable
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks annotator                                   # the embedded model; some minutes on two cores
  python -m benchmarks annotator --phantoms 4 --objects 1 --clicks 3 -o annotator.json --picture annotator.png
  python -m benchmarks annotator --bundle medsam2 --vertex-seconds 0.5 --click-seconds 4

three ways to 3-D Dice 0.8 and 0.9: polygons on one slice after the other; a box on the middle slice, a click each time
where the error is deepest, and by hand what clicks do not mend; the same on masks that a cohort has made already, in
the order of its review queue. The last line is JSON.
"""


def as_text(report: dict[str, Any]) -> str:
    """A report as JSON, in which each object has a line."""
    whole = json.dumps({**report, "rows": []}, indent=1)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in report["rows"])
    return whole.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def table(told: dict[str, Any]) -> str:
    """The summaries by target for people, in Markdown."""
    head = (
        *("to Dice", "way", "seconds an object", "of which waited", "prompts", "slices by hand"),
        *("without drawing by hand", "clicks taken back", "time saved", "quicker on"),
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for target, ways in told.items():
        for way, m in ways.items():
            low, high = m["seconds_interval"]
            undone = m["clicks_taken_back"]
            lines.append(
                f"| {target} | {way} | {m['seconds']:.0f} ({low:.0f}, {high:.0f}) | {m['waited_s']:.1f} | "
                f"{m['prompts']:.1f} | {m['slices_by_hand']:.1f} | {m['reached_without_hand']:.0%} | "
                f"{'' if undone is None else f'{undone:.0%}'} | "
                f"{m['time_saved']:.0%} | {m['quicker_than_scratch']} |"
            )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks annotator",
        "Measure what a simulated annotator saves with a model and with a cohort's review queue.",
        EXAMPLES,
    )
    add = p.add_argument
    add("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    add("--backend", default="auto")
    add("--threads", type=int, metavar="N")
    add("--phantoms", type=int, default=32, metavar="N", help="studies (%(default)s)")
    add("--objects", type=int, default=2, metavar="N", help="of each, at the most (%(default)s)")
    add("--targets", default="0.8,0.9", metavar="D,D", help="3-D Dice to reach (%(default)s)")
    add(
        "--clicks",
        type=int,
        default=6,
        metavar="N",
        help="on one object, then by hand (%(default)s)",
    )
    add(
        "--patience",
        type=int,
        default=2,
        metavar="N",
        help="answers in a row that make it no better, then by hand (%(default)s)",
    )
    add("--orders", type=int, default=200, metavar="N", help="random ones (%(default)s)")
    add("--seed", type=int, default=0, help="of random orders (%(default)s)")
    add("-o", "--output", type=Path, metavar="F.json", help="write every object's figures")
    add("--picture", type=Path, metavar="P.png", help="draw curves and times")
    add_costs(p)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    targets = _targets(args)
    habits = Habits(costs_of(args), max(targets), args.clicks, args.patience)
    import matplotlib  # noqa: F401 (before minutes of work, not after them)

    bundle = open_bundle(args.bundle)
    job = Job(
        *(Path("studies"), Path("out"), [], MemoryRules()),
        is_memory_chosen=False,
        bundle=args.bundle,
        backend=args.backend,
        threads=args.threads,
    )
    settings = Settings(job, bundle.fingerprint, draws=False)
    model = load(args.bundle, args.backend, args.threads)
    seeds = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + args.phantoms)
    subjects, attempts, queue = measure(model, settings, seeds, args.objects, habits)
    studies = [subject.study for subject in subjects]
    places = {(subject.study, subject.object_id): i for i, subject in enumerate(subjects)}
    in_turn = [places[study, object_id] for study, object_id, _ in queue]
    doubt = {(study, object_id): score for study, object_id, score in queue}
    summaries = {f"{target:g}": summary(attempts, studies, target) for target in targets}
    report = {
        "model": model.numbers.name,
        "bundle": args.bundle or "embedded",
        "fingerprint": bundle.fingerprint,
        "backend": model.backend.description,
        "machine": machine_name(),
        "phantom_seeds": [seeds[0], seeds[-1]],
        "objects": len(subjects),
        "habits": asdict(habits),
        "random_orders": {"count": args.orders, "seed": args.seed},
        "summary": summaries,
        "breakeven_vertex_s": {
            f"{target:g}": {
                way: breakeven_vertex_s(attempts, target, habits.costs, way) for way in WAYS[1:]
            }
            for target in targets
        },
        "orders": orders(attempts, in_turn, studies, args.orders, args.seed),
        "rows": [
            {
                "study": subject.study,
                "object": subject.object_id,
                "review_score": doubt[subject.study, subject.object_id],
                **efforts_of(attempts, index, targets),
            }
            for index, subject in enumerate(subjects)
        ],
    }
    report = sayable(report)
    print(f"{report['model']} on {report['backend']}\n{table(summaries)}")
    if args.output:
        write_text(args.output, as_text(report))
    if args.picture:
        from benchmarks.annotation.annotator_picture import draw

        draw(report, args.picture)
    print_result({name: value for name, value in report.items() if name not in ("rows", "orders")})


def _targets(args: argparse.Namespace) -> list[float]:
    """What --targets says. Raises InputError, also for other numbers that make no sense."""
    try:
        targets = [float(word) for word in args.targets.split(",")]
    except ValueError as error:
        raise InputError(
            f"found --targets {args.targets}; wanted numbers, as in 0.8,0.9"
        ) from error
    if not all(0 < target <= 1 for target in targets):
        raise InputError(f"found --targets {args.targets}; wanted Dice above 0, up to 1")
    for name, least in (
        ("phantoms", 1),
        ("objects", 1),
        ("clicks", 0),
        ("patience", 1),
        ("orders", 1),
    ):
        if getattr(args, name) < least:
            raise InputError(f"found --{name} {getattr(args, name)}; wanted {least} or more")
    return targets
