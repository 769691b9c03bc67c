"""`python -m benchmarks quality`: one prompt on the middle slice of each object, against ground truth.

Cases are held-out phantoms, or a folder of labelled volumes: .npz with `imgs` and `gts`, or pairs of NAME.nii.gz and
NAME_label.nii.gz. Besides the whole volume it counts what goes wrong where: by distance from the prompt, on slices
where the object has ended, and against simply copying the prompted slice's mask.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.overlap import compare, dice
from benchmarks.phantoms import HELD_OUT_SEEDS, make_flow, make_volume
from runtime import Box, Mask, Point, Volume, VolumePredictor, load, read_volume
from runtime.backends import BACKENDS
from runtime.errors import InputError, MissingInput, VolumeError
from runtime.machine import machine_name
from runtime.prompts import Prompt
from runtime.window import apply_window

PROMPTS = ("box", "click", "mask")
DISTANCES = (1, 2, 4, 8, 16)
MIN_AREA = 40  # voxels on the prompted slice
MIN_SLICES = 3
MAX_OBJECTS = 3  # of one phantom
LABEL_SUFFIX = "_label"

EXAMPLES = """examples:
  python -m benchmarks quality                                  # the embedded model on phantoms
  python -m benchmarks quality --folder lesions/ --bundle medsam2 -o lesions.json
"""


def phantom_cases(count: int) -> Iterator[Case]:
    """Objects of `count` held-out phantoms, then of a third as many flows."""
    for seed in range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + count):
        made = make_volume(seed)
        volume = Volume.from_array(made.pixels)
        for label, truth, key in objects(made.labels)[:MAX_OBJECTS]:
            yield Case(f"phantom {seed} object {label}", volume, truth, key)
    for seed in range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + max(count // 3, 1)):
        made = make_flow(seed)
        yield Case(f"flow {seed}", Volume.from_array(made.pixels), made.labels == 1, 0, True)


def judge(predictor: VolumePredictor, case: Case, kind: str) -> dict[str, Any]:
    """Figures of one case under one kind of prompt."""
    predictor.reset()
    prompt = draw_prompt(kind, case.truth, case.key)
    predictor.add(prompt)
    found = predictor.propagate().mask(1)
    truth, key = case.truth, case.key
    present = truth.any((1, 2))
    present_others = present.copy()
    present_others[key] = False
    absent = ~present
    copied = np.repeat(truth[key][None], len(truth), 0)
    by_distance = {}
    for distance in DISTANCES:
        near = [i for i in (key - distance, key + distance) if 0 <= i < len(truth) and present[i]]
        if near:
            by_distance[distance] = float(np.mean([dice(found[i], truth[i]) for i in near]))
    limited = found & present[:, None, None]
    drawn = found.any((1, 2))
    others = np.flatnonzero(present_others)
    agreement = compare(found, truth, case.volume.spacing_mm)
    return {
        "case": case.name,
        "prompt": kind,
        "is_flow": case.is_flow,
        "dice": agreement.dice,
        "iou": agreement.iou,
        "hd95_mm": agreement.hd95_mm,
        "nsd": agreement.nsd,
        "dice_where_present": dice(limited, truth),
        "prompted_slice": dice(found[key], truth[key]),
        "other_slices": float(np.mean([dice(found[i], truth[i]) for i in others])),
        "copy_of_mask": float(np.mean([dice(copied[i], truth[i]) for i in others])),
        "by_distance": by_distance,
        "drawn_where_absent": float(drawn[absent].mean()) if absent.any() else float("nan"),
        "lost_where_present": float((~drawn[present]).mean()),
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over cases, by prompt, volumes and flows apart."""
    summary: dict[str, Any] = {}
    for is_flow, group in ((False, "volumes"), (True, "flows")):
        for kind in PROMPTS:
            chosen = [r for r in rows if r["is_flow"] == is_flow and r["prompt"] == kind]
            if not chosen:
                continue
            names = [k for k, v in chosen[0].items() if isinstance(v, float)]
            means = {name: _mean([r[name] for r in chosen]) for name in names}
            means["by_distance"] = {
                d: _mean([r["by_distance"][d] for r in chosen if d in r["by_distance"]])
                for d in DISTANCES
            }
            summary.setdefault(group, {})[kind] = {"cases": len(chosen), **means}
    return summary


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if not np.isnan(v)]
    return round(float(np.mean(known)), 4) if known else None


def table(summary: dict[str, Any]) -> str:
    """The summary for people, in Markdown."""
    head = (
        "3-D Dice",
        "prompted slice",
        *(f"at {d}" for d in DISTANCES),
        "drawn where absent",
        "copy of mask",
    )
    lines = [f"| | cases | {' | '.join(head)} |", "|---" * (len(head) + 2) + "|"]
    for group, kinds in summary.items():
        for kind, m in kinds.items():
            values = (
                m["dice"],
                m["prompted_slice"],
                *m["by_distance"].values(),
                m["drawn_where_absent"],
                m["copy_of_mask"],
            )
            cells = " | ".join("" if v is None else f"{v:.2f}" for v in values)
            lines.append(f"| {group}, {kind} | {m['cases']} | {cells} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks quality",
        description="Measure a bundle against ground truth.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    p.add_argument("--folder", type=Path, help="labelled volumes; default: held-out phantoms")
    p.add_argument("--phantoms", type=int, default=12, help="how many (%(default)s)")
    p.add_argument("--prompts", default=",".join(PROMPTS), help="kinds to try (%(default)s)")
    p.add_argument("--window", default="auto", help="as for runtime.segment (%(default)s)")
    p.add_argument("-o", "--output", type=Path, metavar="F.json", help="write every case's figures")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    kinds = args.prompts.split(",")
    if unknown := set(kinds) - set(PROMPTS):
        raise InputError(f"no prompt '{unknown.pop()}'; there are: {', '.join(PROMPTS)}")
    model = load(args.bundle, args.backend)
    cases = phantom_cases(args.phantoms) if args.folder is None else folder_cases(args.folder)
    rows = []
    predictor, volume = VolumePredictor(model), None
    for case in tqdm(cases, desc="quality", unit="object", file=sys.stderr):
        if case.volume is not volume:
            volume = case.volume
            predictor.set_volume(apply_window(volume, args.window)[0], "none")
        rows += [judge(predictor, case, kind) for kind in kinds]
    report = {
        "model": model.numbers.name,
        "backend": model.backend.description,
        "machine": machine_name(),
        "data": str(args.folder or f"{args.phantoms} held-out phantoms"),
        "summary": summarise(rows),
    }
    if args.output:
        part = args.output.with_name(f".{args.output.name}.part")
        part.write_text(json.dumps({**report, "cases": rows}, indent=1) + "\n")
        part.replace(args.output)
    print(table(report["summary"]))
    print(json.dumps(report))
