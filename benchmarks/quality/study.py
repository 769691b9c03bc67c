"""`python -m benchmarks study`: which memory, pick-up, end of following and zoom help, on clean and on damaged volumes.

Held-out phantoms, a box on the middle slice of each object, every setting on the same ones. Intervals are over draws of
phantoms (`benchmarks.quality.bootstrap`), and what differs from SAM 2's own way for sure is marked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS, make_volume
from benchmarks.quality.bootstrap import Interval, interval
from benchmarks.quality.overlap import dice
from export.choose import ENCODED_BYTES, up_to_end
from export.damage import DAMAGES
from export.labelled import Case, draw_prompt, objects
from runtime import MemoryRules, Model, Volume, VolumePredictor, load
from runtime.devices.machine import machine_name
from runtime.errors import InputError
from runtime.files.atomic import write_text
from runtime.predictors.result import SliceMask
from runtime.predictors.stop import StopRule
from runtime.process.streams import print_result, sayable
from runtime.process.subcommands import command_parser
from runtime.steps.encodings import Encodings

AFTER = 6  # slices behind the damaged ones that SAM 2's memory would hold these on

MEMORIES = (
    ("fifo", "all"),
    ("fifo", "weighted"),
    ("confidence", "all"),
    ("self_sorting", "all"),
    ("confident_and_latest", "all"),
    ("confident_and_latest", "weighted"),
    ("self_sorting_and_latest", "all"),
)
BEST = MEMORIES[0], MEMORIES[4]  # those that zoom and stop rules are tried with
ZOOMS = (3.0, 4.0)
STOPS = tuple(StopRule(below=below, after=3) for below in (0.0, 0.3, 0.5))

EXAMPLES = """examples:
  python -m benchmarks study                                # the embedded model, ten minutes on two cores
  python -m benchmarks study --phantoms 4 --suite clean,noise --bundle medsam2 -o study.json
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one setting made of one object.

    Attributes:
        phantom, case: of the object.
        suite: a key of `DAMAGES`.
        setting: memory, zoom and rule in words.
        dice: 3-D.
        after: mean Dice on the slices behind the damaged ones; NaN where none is.
        absent: share of the slices without the object that something is drawn on; NaN where there are none.
        visited: share of all slices that the run came to.
    """

    phantom: str
    case: str
    suite: str
    setting: str
    dice: float
    after: float
    absent: float
    visited: float


def cases(count: int, num_objects: int) -> Iterator[tuple[str, Case]]:
    """Phantoms by name with some of their objects."""
    for seed in range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + count):
        phantom = make_volume(seed)
        volume = Volume.from_array(phantom.pixels)
        for label, truth, key in objects(phantom.labels)[:num_objects]:
            yield str(seed), Case(f"phantom {seed} object {label}", volume, truth, key)


def name_of(memory: tuple[str, str], zoom: float | None, rule: StopRule | None) -> str:
    """A setting in words."""
    policy, pick_up = memory
    parts = [policy, *([pick_up] if pick_up != "all" else [])]
    parts += [f"zoom {zoom:g}"] if zoom else []
    parts += [f"stop below {rule.below:g} after {rule.after}"] if rule else []
    return ", ".join(parts)


def run(
    encodings: Encodings,
    case: Case,
    pixels: NDArray[np.uint8],
    memory: tuple[str, str],
    zoom: float | None,
) -> dict[int, SliceMask]:
    """Masks by slice, of a run without any end."""
    policy, pick_up = memory
    rules = MemoryRules(policy=policy, pick_up=pick_up)
    predictor = VolumePredictor(encodings.model, rules, encodings=encodings, zoom=zoom)
    predictor.set_volume(pixels, "none")
    predictor.add(draw_prompt("box", case.truth, case.key))
    return {mask.slice: mask for mask in predictor.stream(stop=None)}


def rows_of(
    phantom: str,
    case: Case,
    suite: str,
    encodings: Encodings,
    memory: tuple[str, str],
    zoom: float | None,
) -> Iterator[Row]:
    """One run, under every stop rule."""
    pixels, damaged = DAMAGES[suite].do(case, case.volume.array)
    slice_masks = run(encodings, case, pixels, memory, zoom)
    masks = {i: mask.mask() for i, mask in slice_masks.items()}
    present = case.truth.any((1, 2))
    behind = [i for i in after(case.key, damaged, len(pixels)) if present[i]]
    for rule in (None, *(STOPS if memory in BEST else ())):
        drawn = np.zeros_like(case.truth)
        visited = up_to_end(slice_masks, case.key, rule)
        for index in visited:
            drawn[index] = masks[index]
        absent = drawn.any((1, 2))[~present]
        yield Row(
            phantom,
            case.name,
            suite,
            name_of(memory, zoom, rule),
            dice(drawn, case.truth),
            float(np.mean([dice(drawn[i], case.truth[i]) for i in behind])) if behind else nan,
            float(absent.mean()) if absent.size else nan,
            len(visited) / len(pixels),
        )


def after(key: int, damaged: Sequence[int], depth: int) -> list[int]:
    """The slices behind damaged ones, seen from the prompted one."""
    indices = []
    for way in (1, -1):
        if there := [i for i in damaged if (i - key) * way > 0]:
            last = max(there, key=lambda i: abs(i - key))
            indices += [last + way * d for d in range(1, AFTER + 1)]
    return [i for i in indices if 0 <= i < depth]


def measure(model: Model, count: int, num_objects: int, suites: Sequence[str]) -> list[Row]:
    """Every setting on some objects of each of `count` phantoms."""
    rows: list[Row] = []
    chosen = list(cases(count, num_objects))
    tried = [*((None, memory) for memory in MEMORIES), *product(ZOOMS, BEST)]
    settings = [(suite, zoom, memory) for suite in suites for zoom, memory in tried]
    encodings = Encodings(model, ENCODED_BYTES)
    with tqdm(total=len(chosen) * len(settings), desc="study", unit="run", file=sys.stderr) as bar:
        for phantom, case in chosen:
            for suite, zoom, memory in settings:
                rows += rows_of(phantom, case, suite, encodings, memory, zoom)
                bar.update()
    return rows


def summary(rows: Sequence[Row], figure: str, suite: str, setting: str) -> tuple[Interval, bool]:
    """A figure's mean with its interval, and whether it differs from SAM 2's own way for sure."""
    mine = {r.case: r for r in rows if (r.suite, r.setting) == (suite, setting)}
    plain = {
        r.case: r for r in rows if (r.suite, r.setting) == (suite, name_of(MEMORIES[0], None, None))
    }
    groups = [r.phantom for r in mine.values()]
    values = [getattr(r, figure) for r in mine.values()]
    gains = [getattr(r, figure) - getattr(plain[r.case], figure) for r in mine.values()]
    return interval(values, groups), interval(gains, groups).is_sure


def table(rows: Sequence[Row], suites: Sequence[str], settings: Sequence[str]) -> str:
    """Settings by suites for people, in Markdown: 3-D Dice, then what else tells them apart."""
    columns = [
        *(("dice", suite, suite) for suite in suites),
        *(("after", s, f"after {s}") for s in suites if s in ("noise", "motion", "missing")),
        ("absent", suites[0], "drawn where absent"),
        ("visited", suites[0], "slices visited"),
    ]
    lines = [f"| | {' | '.join(head for *_, head in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for setting in settings:
        cells = []
        for figure, suite, _ in columns:
            text, is_sure = summary(rows, figure, suite, setting)
            cells.append(f"{text}{' *' if is_sure else ''}")
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks study",
        "Compare memory, pick-up, end of following and zoom on clean and damaged phantoms.",
        EXAMPLES,
    )
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument("--backend", default="auto")
    p.add_argument("--threads", type=int, metavar="N")
    p.add_argument("--suite", default=",".join(DAMAGES), help="%(default)s")
    p.add_argument("--phantoms", type=int, default=8, help="how many (%(default)s)")
    p.add_argument(
        "--objects", type=int, default=2, help="of each; further ones say little (%(default)s)"
    )
    p.add_argument("-o", "--output", type=Path, metavar="F.json", help="write every run's figures")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    suites = args.suite.split(",")
    if unknown := [suite for suite in suites if suite not in DAMAGES]:
        raise InputError(f"no suite '{unknown[0]}'; there are: {', '.join(DAMAGES)}")
    for name in ("phantoms", "objects"):
        if getattr(args, name) < 1:
            raise InputError(f"found --{name} {getattr(args, name)}; wanted 1 or more")
    model = load(args.bundle, args.backend, args.threads).plain()
    rows = measure(model, args.phantoms, args.objects, suites)
    memories = [name_of(memory, None, None) for memory in MEMORIES]
    others = [row.setting for row in rows if row.setting not in memories]
    print(f"{model.numbers.name} on {model.backend.description}")
    for settings in (memories, list(dict.fromkeys(others))):
        print(f"\n{table(rows, suites, settings)}")
    report = {
        "bundle": args.bundle or "embedded",
        "model": model.numbers.name,
        "backend": model.backend.description,
        "machine": machine_name(),
        "phantoms": args.phantoms,
        "objects": len({row.case for row in rows}),
    }
    if args.output:
        whole = sayable({**report, "rows": [asdict(row) for row in rows]})
        write_text(args.output, json.dumps(whole, indent=1) + "\n")
    print_result(report)
