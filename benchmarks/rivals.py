"""`python -m benchmarks rivals`: a bundle against PyTorch in fp32 and bf16: same weights, pixels and machine, one run.

Passes alternate between the contenders, so that a machine's moods fall on all of them. Speed is never shown without
the match beside it: largest error of any slice's logits, and lowest Dice of any slice's mask, against PyTorch fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import torch
from tqdm import trange

from export.torch_backend import torch_model
from export.verify import reference_for
from runtime import load
from runtime.backends import BACKENDS
from runtime.bundle import open_bundle
from runtime.errors import InputError
from runtime.latency import COLUMNS, Run, bench_phantom, check_sizes, summarise, time_propagation
from runtime.machine import machine_name

EXAMPLES = """examples:
  python -m export --random-weights 2 --model sam2.1_hiera_t --image-size 512 -o random512
  python -m benchmarks rivals random512
  python -m benchmarks rivals medsam2 --checkpoint MedSAM2_latest.pt --objects 3
"""
REFERENCE = "PyTorch fp32"


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
    p.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    p.add_argument("--slices", type=int, default=12, help="to track in each pass (%(default)s)")
    p.add_argument("--objects", type=int, default=1, help="1 to 3 (%(default)s)")
    p.add_argument("--image-size", type=int, default=512, help="of the slices (%(default)s)")
    p.add_argument(
        "--threads", type=int, metavar="N", help="for every contender; default: their own"
    )
    p.add_argument("--repeat", type=int, default=2, help="passes of each (%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if wanted := check_sizes(args.slices, args.objects, args.image_size):
        raise InputError(f"nothing to measure; wanted {wanted}")
    if args.threads:
        torch.set_num_threads(args.threads)
    bundle = open_bundle(args.bundle)
    reference = reference_for(bundle, args.checkpoint)
    contenders = {
        "bundle": load(bundle, args.backend, args.threads),
        REFERENCE: torch_model(reference),
        "PyTorch bf16": torch_model(reference, torch.bfloat16),
    }
    phantom = bench_phantom(args.slices, args.image_size)
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in trange(args.repeat + 1, desc="benchmarks", unit="pass", file=sys.stderr):
        for name, model in contenders.items():
            runs[name].append(time_propagation(model, phantom, args.objects))
    num_maskmem = bundle.model.num_maskmem
    truth = runs[REFERENCE][0]
    report: dict[str, Any] = {
        "model": bundle.model.name,
        "model_image_size": bundle.model.image_size,
        "machine": machine_name(),
        "objects": args.objects,
        "slices": args.slices,
        "repeat": args.repeat,
        "contenders": {
            name: {
                "backend": model.backend.description,
                "latency_ms": summarise(runs[name][1:], num_maskmem),
                "first_mask_ms": float(np.median([run.first_mask_ms for run in runs[name][1:]])),
                **match(runs[name][0], truth),
            }
            for name, model in contenders.items()
        },
    }
    own = report["contenders"]["bundle"]["latency_ms"]["total"]["median"]
    for entry in report["contenders"].values():
        entry["times_bundle"] = round(entry["latency_ms"]["total"]["median"] / own, 2)
    print(table(report))
    print(json.dumps(report))


def match(run: Run, truth: Run) -> dict[str, float]:
    """Worst relative error of logits and lowest Dice over all slices."""
    errors, dices = [], []
    for key, right in truth.logits.items():
        found = run.logits[key]
        errors.append(np.abs(found - right).max() / np.abs(right).max())
        a, b = found > 0, right > 0
        total = a.sum() + b.sum()
        dices.append(2 * (a & b).sum() / total if total else 1.0)
    return {"worst_relative_error": float(max(errors)), "lowest_dice": float(min(dices))}


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {report['objects']} object(s), medians in ms per "
        f"slice; {report['machine']}",
        "",
        "| | " + " | ".join(COLUMNS) + " | against bundle | worst logit error | lowest Dice |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for name, entry in report["contenders"].items():
        medians = " | ".join(f"{entry['latency_ms'][column]['median']:.1f}" for column in COLUMNS)
        lines.append(
            f"| {name}: {entry['backend']} | {medians} | {entry['times_bundle']:.2f} | "
            f"{entry['worst_relative_error']:.1e} | {entry['lowest_dice']:.4f} |"
        )
    return "\n".join(lines)
