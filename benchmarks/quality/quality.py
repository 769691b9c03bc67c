"""`python -m benchmarks quality`: one prompt on the middle slice of each object, against ground truth.

Cases are held-out phantoms, or a folder of labelled volumes: .npz with `imgs` and `gts`, pairs of NAME.nii.gz and
NAME_label.nii.gz, or what `medsam2 cohort export` writes. Besides the whole volume it counts what goes wrong where: by
distance from the prompt, on slices where the object has ended, and against simply copying the prompted slice's mask.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS, make_flow, make_volume
from benchmarks.quality.judge import DISTANCES, Setting, judge, segment, summarise
from benchmarks.quality.quality_picture import Example, draw_quality
from export.damage import noise
from export.labelled import PROMPTS, Case, labelled_volumes, objects, some_cases
from runtime import MemoryRules, Model, Volume, load
from runtime.backends import BACKENDS
from runtime.devices.machine import machine_name
from runtime.errors import InputError
from runtime.files.atomic import write_text
from runtime.io.window import apply_window
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.predictors.zoom import check_zoom
from runtime.preview.preview import write_preview
from runtime.process.streams import print_result, sayable
from runtime.process.subcommands import command_parser

MAX_OBJECTS = 3  # of one phantom
WORST = 6  # cases drawn

SUITES: dict[str, list[Setting]] = {
    "prompts": [Setting(kind, kind) for kind in PROMPTS],
    "memory": [
        Setting("same prompt on every slice", rules=None),
        Setting("prompted slice only", rules=MemoryRules(policy="confidence", min_confidence=1.0)),
        *(
            Setting(f"{policy}, {pick_up}", rules=MemoryRules(policy=policy, pick_up=pick_up))
            for policy, pick_up in product(POLICIES, PICK_UPS)
        ),
    ],
    "ruined": [
        Setting(f"ruined slices, {policy}", rules=MemoryRules(policy=policy), is_ruined=True)
        for policy in POLICIES
    ],
    "box": [Setting("box")],
    "defaults": [
        Setting("the bundle's defaults", has_defaults=True),
        Setting("ruined slices, the bundle's defaults", is_ruined=True, has_defaults=True),
    ],
    "spacing": [
        Setting("every slice tracked", has_defaults=True),
        *(Setting(f"one of {n} tracked", has_defaults=True, every=n) for n in (2, 3, 4, 6)),
    ],
}

EXAMPLES = """examples:
  python -m benchmarks quality                                    # the embedded model on phantoms
  python -m benchmarks quality --suite prompts,memory,ruined -o quality.json --picture quality.png
  python -m benchmarks quality --folder lesions/ --bundle medsam2 --backend ort,openvino -o lesions.json
  python -m benchmarks quality --suite box --zoom none,2,3,4 --folder lesions/
  python -m benchmarks quality --suite box,defaults --phantoms 24      # plain, and as medsam2 segment does it
  python -m benchmarks quality --suite spacing --thin 3                # what --track-every costs and gains
  python -m benchmarks quality --suite box --checkpoint out/nano/nano.pt   # weights that are being trained
suites: prompts (box, click, mask), memory (every policy and pick-up, and none), ruined (noise on two slices), box,
defaults (what the bundle has chosen, clean and ruined), spacing (some slices tracked, others interpolated).
"""


def phantom_cases(count: int, thin: int = 1) -> Iterator[Case]:
    """Objects of `count` held-out phantoms, then of a third as many flows.

    `thin` gives each volume so many times as many slices, as overlapping reconstructions of a scanner have them.
    """
    volumes = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + count)
    flows = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + max(count // 3, 1))
    total = len(volumes) + len(flows)
    with tqdm(total=total, desc="phantoms", unit="volume", file=sys.stderr) as bar:
        for seed in volumes:
            phantom = make_volume(seed)
            pixels = thinned(phantom.pixels, thin)
            volume = Volume.from_array(np.rint(pixels).astype(np.uint8))
            for label, truth, key in objects(phantom.labels)[:MAX_OBJECTS]:
                name = f"phantom {seed} object {label}"
                yield Case(name, volume, thinned(truth, thin) > 0.5, key * thin)
            bar.update()
        for seed in flows:
            phantom = make_flow(seed)
            volume = Volume.from_array(phantom.pixels)
            yield Case(f"flow {seed}", volume, phantom.labels == 1, 0, True)
            bar.update()


def read_cases(folder: Path) -> Iterator[Case]:
    """Every labelled object in a folder, as `export.labelled.folder_cases` has them."""
    with tqdm(labelled_volumes(folder), desc="read", unit="volume", file=sys.stderr) as bar:
        yield from some_cases(bar, None)


def thinned(volume: NDArray[np.generic], thin: int) -> NDArray[np.float32]:
    """A volume (z, y, x) with `thin` - 1 slices between each two, on the straight line between them."""
    slices = volume.astype(np.float32)
    parts = [slices[:1]]
    for first, last in pairwise(slices):
        along = np.arange(1, thin + 1, dtype=np.float32)[:, None, None] / thin
        parts.append(first + along * (last - first))
    return np.concatenate(parts)


def measure(
    model: Model, cases: list[Case], settings: list[Setting], window: str
) -> tuple[list[dict[str, Any]], list[Example]]:
    """Figures of every case under every setting, and the worst volumes under the first one."""
    rows, examples = [], []
    with tqdm(total=len(cases) * len(settings), desc="quality", unit="run", file=sys.stderr) as bar:
        for case in cases:
            pixels, _ = apply_window(case.volume, window)
            for setting in settings:
                seen, ruined = noise(case, pixels) if setting.is_ruined else (pixels, [])
                if not (setting.is_ruined and case.is_flow):
                    result = segment(model, case, seen, setting)
                    rows.append(judge(case, setting, result, ruined))
                    if setting is settings[0] and not case.is_flow:
                        examples.append(Example(rows[-1]["dice"], case, seen, result))
                        examples = sorted(examples, key=lambda e: e.dice)[:WORST]
                bar.update()
    return rows, examples


def models(args: argparse.Namespace) -> Iterator[tuple[str, Model]]:
    """What is to be measured, and what it is called: checkpoints if there are any, else bundles on back ends."""
    for path in args.checkpoint or []:
        from export.checkpoints.checkpoint import load_model, read_checkpoint
        from export.torch_backend import torch_model

        yield str(path), torch_model(load_model(read_checkpoint(path)))
    if not args.checkpoint:
        for bundle, backend in product(args.bundle or [None], args.backend.split(",")):
            yield bundle or "embedded", load(bundle, backend)


def zooms(text: str) -> list[float | None]:
    """What --zoom says. Raises InputError for what is neither a zoom nor none."""
    try:
        factors = [None if word == "none" else float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"found --zoom {text}; wanted numbers or none, as in none,2,3.5"
        ) from error
    return [None if factor is None else check_zoom(factor) for factor in factors]


def seen(setting: Setting, zoom: float | None) -> Setting:
    """A setting with zoom, by another name."""
    if zoom is None:
        return setting
    return replace(setting, name=f"{setting.name}, zoom {zoom:g}", zoom=zoom)


def table(summary: dict[str, Any]) -> str:
    """The summary for people, in Markdown."""
    head = (
        "3-D Dice",
        "NSD",
        "HD95 mm",
        "prompted slice",
        "other slices",
        *(f"at {d}" for d in DISTANCES),
        "drawn where absent",
        "lost where present",
        "copy of mask",
        "ruined in memory",
        "after ruined",
        "slices tracked",
    )
    lines = [f"| | cases | {' | '.join(head)} |", "|---" * (len(head) + 2) + "|"]
    for group, settings in summary.items():
        for name, m in settings.items():
            values = (
                m["dice"],
                m["nsd"],
                m["hd95_mm"],
                m["prompted_slice"],
                m["other_slices"],
                *m["by_distance"].values(),
                m["drawn_where_absent"],
                m["lost_where_present"],
                m["copy_of_mask"],
                m.get("ruined_in_memory"),
                m.get("after_ruined"),
                m.get("tracked_slices"),
            )
            cells = " | ".join("" if v is None else f"{v:.2f}" for v in values)
            lines.append(f"| {group}, {name} | {m['cases']} | {cells} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks quality", "Measure a bundle against ground truth.", EXAMPLES
    )
    p.add_argument(
        "--bundle",
        action="append",
        metavar="BUNDLE",
        help="default: the embedded demonstration model; several are compared, for instance precisions",
    )
    p.add_argument(
        "--checkpoint",
        action="append",
        type=Path,
        metavar="F.pt",
        help="weights instead, in PyTorch, as they are while they are trained; several are compared",
    )
    p.add_argument(
        "--backend", default="auto", help=f"auto, {', '.join(BACKENDS)}; several are compared"
    )
    p.add_argument("--suite", default="prompts", help="what to compare (%(default)s)")
    p.add_argument(
        "--zoom",
        default="none",
        metavar="F,...",
        help="as for medsam2 segment (none); several are compared",
    )
    p.add_argument("--folder", type=Path, help="labelled volumes; default: held-out phantoms")
    p.add_argument("--phantoms", type=int, default=12, help="how many (%(default)s)")
    p.add_argument(
        "--thin",
        type=int,
        default=1,
        metavar="N",
        help="times as many slices in a phantom, interpolated (%(default)s)",
    )
    p.add_argument("--window", default="auto", help="as for medsam2 segment (%(default)s)")
    p.add_argument("-o", "--output", type=Path, metavar="F.json", help="write every case's figures")
    p.add_argument("--picture", type=Path, metavar="F.png", help="draw curves and the worst cases")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if args.picture:
        import_module("matplotlib")  # what is missing is told before the work, not after it
    suites = args.suite.split(",")
    if unknown := set(suites) - set(SUITES):
        raise InputError(f"no suite '{unknown.pop()}'; there are: {', '.join(SUITES)}")
    chosen = [setting for suite in suites for setting in SUITES[suite]]
    settings = [seen(setting, zoom) for zoom in zooms(args.zoom) for setting in chosen]
    if args.thin < 1:
        raise InputError(f"found --thin {args.thin}; wanted 1 or more")
    if args.phantoms < 1:
        raise InputError(f"found --phantoms {args.phantoms}; wanted 1 or more")
    phantoms = phantom_cases(args.phantoms, args.thin)
    cases = list(phantoms if args.folder is None else read_cases(args.folder))
    reports, pictures = [], []
    for name, model in models(args):
        rows, examples = measure(model, cases, settings, args.window)
        reports.append(
            {
                "bundle": name,
                "model": model.numbers.name,
                "backend": model.backend.description,
                "machine": machine_name(),
                "data": str(args.folder or f"{args.phantoms} held-out phantoms"),
                "summary": summarise(rows),
                "cases": rows,
            }
        )
        pictures.append(examples)
        print(
            f"{model.numbers.name} on {model.backend.description}\n{table(reports[-1]['summary'])}"
        )
    reports = sayable(reports)
    if args.output:
        write_text(args.output, json.dumps(reports, indent=1) + "\n")
    if args.picture:
        write_preview(args.picture, draw_quality(reports[0], pictures[0]))
    print_result([{k: v for k, v in report.items() if k != "cases"} for report in reports])
