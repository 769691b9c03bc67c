"""`python -m benchmarks rivals`: a bundle's back ends against PyTorch, with the same weights, pixels and machine.

PyTorch comes as the official package's predictors (eager in fp32 and bf16, with a compiled encoder, `vos_optimized`)
and as this project's own definition of the model, which is timed graph by graph and whose fp32 is the truth. Passes
alternate between the contenders, so that a machine's moods fall on all of them. Speed is never shown without the match
beside it: largest error of any slice's logits, and Dice of all masks and of the worst slice, against PyTorch fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from export.model.sam2 import Sam2
from export.torch_backend import torch_model
from export.verify import reference_for
from runtime import Model, load
from runtime.backends import BACKENDS
from runtime.bundle import Bundle, open_bundle
from runtime.errors import BackendUnavailable, InputError
from runtime.latency import COLUMNS, Run, bench_phantom, check_sizes, summarise, time_propagation
from runtime.machine import machine_name
from runtime.phantom import Phantom

EXAMPLES = """examples:
  python -m export --random-weights 2 --model sam2.1_hiera_t --image-size 512 -o random512
  python -m benchmarks rivals random512
  python -m benchmarks rivals medsam2 --checkpoint MedSAM2_latest.pt --contenders ort,openvino-bf16,official-bf16

A contender that cannot run here is named with its reason. Compiled ones take minutes to warm up; their first pass, like
every other's, is not counted.
"""
TRUTH = "torch-fp32"
MAX_REASON = 200  # characters of a failure that are reported


class Contender(Protocol):
    """Whoever can follow a phantom's objects."""

    description: str

    def run(self, phantom: Phantom, num_objects: int) -> Run:
        """One propagation, measured."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A model behind this runtime's predictor."""

    model: Model

    @property
    def description(self) -> str:
        return self.model.backend.description

    def run(self, phantom: Phantom, num_objects: int) -> Run:
        return time_propagation(self.model, phantom, num_objects)


@dataclass(frozen=True, slots=True)
class Race:
    """What contenders are made from."""

    bundle: Bundle
    reference: Sam2
    threads: int | None
    device: str


def _ours(name: str, race: Race) -> Contender:
    return Runtime(load(race.bundle, name, race.threads))


def _definition(autocast: torch.dtype | None, race: Race) -> Contender:
    return Runtime(torch_model(race.reference, autocast))


def _official(kind: str, autocast: torch.dtype | None, race: Race) -> Contender:
    try:
        from benchmarks.official import OfficialContender
    except ImportError as error:
        raise BackendUnavailable(f"the official package is missing: {error}") from error
    return OfficialContender(race.reference, kind, autocast, race.device)


CONTENDERS: dict[str, Callable[[Race], Contender]] = {
    **{name: partial(_ours, name) for name in BACKENDS},
    TRUTH: partial(_definition, None),
    "torch-bf16": partial(_definition, torch.bfloat16),
    "official-fp32": partial(_official, "eager", None),
    "official-bf16": partial(_official, "eager", torch.bfloat16),
    "official-compile": partial(_official, "compile", torch.bfloat16),
    "official-vos": partial(_official, "vos_optimized", torch.bfloat16),
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks rivals",
        description="Race a bundle against the PyTorch model it was made from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("bundle", metavar="BUNDLE")
    p.add_argument("--checkpoint", metavar="F.pt", help="what the bundle was exported from")
    p.add_argument(
        "--contenders",
        metavar="NAMES",
        default=",".join(CONTENDERS),
        help="some of: %(default)s; the first is what others are set in ratio to",
    )
    p.add_argument("--slices", type=int, default=12, help="to track in each pass (%(default)s)")
    p.add_argument("--objects", type=int, default=1, help="to follow (%(default)s)")
    p.add_argument("--image-size", type=int, default=512, help="of the slices (%(default)s)")
    p.add_argument(
        "--threads", type=int, metavar="N", help="for every contender; default: their own"
    )
    p.add_argument("--repeat", type=int, default=2, help="passes of each (%(default)s)")
    p.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="of the official package (%(default)s)",
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if wanted := check_sizes(args.slices, args.objects, args.image_size):
        raise InputError(f"nothing to measure; wanted {wanted}")
    names = args.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise InputError(f"no contender '{unknown[0]}'; there are: {', '.join(CONTENDERS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    bundle = open_bundle(args.bundle)
    race = Race(bundle, reference_for(bundle, args.checkpoint), args.threads, args.device)
    phantom = bench_phantom(args.slices, args.image_size)
    contenders, absent = _enter(names, race)
    runs = _alternate(contenders, phantom, args.objects, args.repeat, absent)
    if not runs:
        raise InputError(f"none of them can run here: {absent}")
    truth = runs[TRUTH][0] if TRUTH in runs else _definition(None, race).run(phantom, args.objects)
    report: dict[str, Any] = {
        "model": bundle.model.name,
        "model_image_size": bundle.model.image_size,
        "weights": bundle.weights["kind"],
        "machine": machine_name(),
        "threads": args.threads,
        "objects": args.objects,
        "slices": args.slices,
        "repeat": args.repeat,
        "contenders": {
            name: {
                "description": contenders[name].description,
                "latency_ms": summarise(own[1:], bundle.model.num_maskmem),
                "first_mask_ms": float(np.median([run.first_mask_ms for run in own[1:]])),
                **match(own[0], truth),
            }
            for name, own in runs.items()
        },
        "absent": absent,
    }
    _add_ratios(report["contenders"])
    print(table(report))
    print(json.dumps(report))


def _alternate(
    contenders: dict[str, Contender],
    phantom: Phantom,
    num_objects: int,
    repeat: int,
    absent: dict[str, str],
) -> dict[str, list[Run]]:
    """Everyone's passes, the first one to warm up; who fails is moved to `absent`."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    todo = (repeat + 1) * len(contenders)
    with tqdm(total=todo, desc="rivals", unit="pass", file=sys.stderr) as bar:
        for _ in range(repeat + 1):
            for name in list(runs):
                bar.set_description(name)
                try:
                    runs[name].append(contenders[name].run(phantom, num_objects))
                except Exception as error:  # a rival that cannot is a result too
                    absent[name] = f"{type(error).__name__}: {str(error)[:MAX_REASON]}"
                    del runs[name]
                bar.update()
    return runs


def _add_ratios(entries: dict[str, Any]) -> None:
    """Set everyone's latency in ratio to the first one's."""
    totals = {name: entry["latency_ms"]["total"]["median"] for name, entry in entries.items()}
    base = next(iter(totals))
    for name, entry in entries.items():
        entry["times_first"] = round(totals[name] / totals[base], 2)


def _enter(names: list[str], race: Race) -> tuple[dict[str, Contender], dict[str, str]]:
    """Contenders that can be opened here, and why the others cannot."""
    contenders, absent = {}, {}
    for name in names:
        try:
            contenders[name] = CONTENDERS[name](race)
        except BackendUnavailable as error:
            absent[name] = str(error)
    return contenders, absent


def match(run: Run, truth: Run) -> dict[str, float]:
    """Worst relative error of logits, Dice of all masks together, and of the worst slice."""
    errors, dices, both, total = [], [], 0, 0
    for key, right in truth.logits.items():
        found = run.logits[key]
        errors.append(np.abs(found - right).max() / np.abs(right).max())
        a, b = found > 0, right > 0
        common, either = int((a & b).sum()), int(a.sum() + b.sum())
        dices.append(2 * common / either if either else 1.0)
        both, total = both + common, total + either
    return {
        "worst_relative_error": float(max(errors)),
        "dice": 2 * both / total if total else 1.0,
        "lowest_dice": float(min(dices)),
    }


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    base = next(iter(report["contenders"]))
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {report['objects']} object(s), medians in ms per "
        f"slice; {report['machine']}",
        "",
        "| | "
        + " | ".join(COLUMNS)
        + f" | against {base} | worst logit error | Dice | lowest Dice |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    for name, entry in report["contenders"].items():
        medians = (entry["latency_ms"][column]["median"] for column in COLUMNS)
        cells = " | ".join(f"{ms:.1f}" if ms else "" for ms in medians)
        lines.append(
            f"| {name}: {entry['description']} | {cells} | {entry['times_first']:.2f} | "
            f"{entry['worst_relative_error']:.1e} | {entry['dice']:.4f} | {entry['lowest_dice']:.4f} |"
        )
    lines += [f"{name} cannot run here: {reason}" for name, reason in report["absent"].items()]
    return "\n".join(lines)
