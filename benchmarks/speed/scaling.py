"""`python -m benchmarks scaling`: latency and peak memory against slices, objects, prompts, threads, image size.

Every point is a process of its own, `python -m runtime.bench` with one option changed, so that peak memory is that
point's alone. Image sizes need bundles of those sizes: seeded random weights are exported for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from export.variants import VARIANTS
from runtime.backends import BACKENDS
from runtime.bundle.manifest import UNKNOWN
from runtime.devices.machine import machine_name
from runtime.errors import InputError, Sam2Error
from runtime.files.atomic import write_text
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

SWEEPS: Mapping[str, Sequence[int]] = {
    "slices": (8, 16, 32, 64, 128),
    "objects": (1, 2, 4, 8, 16),
    "prompted": (1, 2, 4, 8),
    "threads": (1, 2, 4, 8, 16, 32, 64),
}
SIZES = (256, 384, 512, 768, 1024)
SEED = 2
BYTES_PER_SLICE = 4  # and pixel: the phantom has labels beside pixels, and as many slices before the middle as after
KEPT = (
    "model",
    "model_image_size",
    "backend",
    "first_mask_ms",
    "second_prompt_ms",
    "feature_mib_per_slice",
    "peak_memory_mib",
)

EXAMPLES = """examples:
  python -m benchmarks scaling                                  # the embedded model, all but image size
  python -m benchmarks scaling --bundle medsam2 -o scaling.json --picture scaling.png
  python -m benchmarks scaling --sweeps size --model sam2.1_hiera_t --backend openvino-bf16
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks scaling", "Measure how latency and memory grow.", EXAMPLES
    )
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    p.add_argument(
        "--sweeps",
        default=",".join(SWEEPS),
        metavar="NAMES",
        help=f"some of: {', '.join(SWEEPS)}, size (%(default)s)",
    )
    p.add_argument("--model", choices=VARIANTS, default="sam2.1_hiera_t", help="of --sweeps size")
    p.add_argument("--slices", type=int, default=12, help="where they are not swept (%(default)s)")
    p.add_argument("--image-size", type=int, default=512, help="of the slices (%(default)s)")
    p.add_argument("--repeat", type=int, default=2, help="passes of each point (%(default)s)")
    p.add_argument("-o", "--output", type=Path, metavar="F.json", help="write all figures")
    p.add_argument("--picture", type=Path, metavar="F.png", help="draw them")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if args.picture:
        import_module("matplotlib")  # what is missing is told before the work, not after it
    names = args.sweeps.split(",")
    if unknown := [name for name in names if name not in (*SWEEPS, "size")]:
        raise InputError(f"no sweep '{unknown[0]}'; there are: {', '.join(SWEEPS)}, size")
    for path in (args.output, args.picture):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a folder; make it first")
    with tempfile.TemporaryDirectory() as folder:
        points = {name: _points(name, args, Path(folder)) for name in names}
        with tqdm(total=sum(map(len, points.values())), unit="point", file=sys.stderr) as bar:
            sweeps = {name: _sweep(name, of, args, bar) for name, of in points.items()}
    report: dict[str, Any] = {"machine": machine_name(), "sweeps": sweeps}
    if "slices" in sweeps:
        phantom_mib = BYTES_PER_SLICE * args.image_size**2 / 2**20
        report["mib_per_slice"] = round(memory_slope(sweeps["slices"]) - phantom_mib, 3)
    if args.output:
        write_text(args.output, json.dumps(report, indent=1) + "\n")
    if args.picture:
        from benchmarks.speed.scaling_picture import draw

        draw(report, title(report), args.picture)
    print(table(report))
    print_result(report)


def _points(name: str, args: argparse.Namespace, folder: Path) -> dict[int, list[str]]:
    """Value swept to what it changes on the command line."""
    if name == "size":
        return {size: ["--bundle", str(_random_bundle(args.model, size, folder))] for size in SIZES}
    own = [] if args.bundle is None else ["--bundle", args.bundle]
    values = SWEEPS[name]
    if name == "threads":
        values = [count for count in values if count <= (os.cpu_count() or 1)]
    return {value: [*own, f"--{name}", str(value)] for value in values}


def _random_bundle(name: str, size: int, folder: Path) -> Path:
    from export.model.sam2 import Sam2
    from export.random_weights import fingerprint, random_state
    from export.write_bundle import write_bundle

    model = Sam2(VARIANTS[name], size)
    state = random_state(model, SEED)
    model.load_state_dict(state, strict=True)
    weights = {
        "kind": "random",
        "source": "random",
        "seed": SEED,
        "sha256": fingerprint(state),
    }
    return write_bundle(model, folder / f"{name}-{size}", weights, UNKNOWN)


def _sweep(
    name: str, points: Mapping[int, list[str]], args: argparse.Namespace, bar: Any
) -> list[dict[str, Any]]:
    rows = []
    for value, changed in points.items():
        bar.set_description(f"{name} {value}")
        fixed = ["--slices", str(args.slices), "--image-size", str(args.image_size)]
        command = [*fixed, "--repeat", str(args.repeat), "--backend", args.backend, *changed]
        rows.append({name: value, **_bench(command)})
        bar.update()
    return rows


def _bench(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.bench", *command], capture_output=True, text=True
    )
    if done.returncode:
        raise Sam2Error(
            f"runtime.commands.bench {' '.join(command)} failed: {done.stderr.strip()[-500:]}"
        )
    report = json.loads(done.stdout.splitlines()[-1])
    latency = {stage: row["median"] for stage, row in report["latency_ms"].items()}
    return {**{key: report[key] for key in KEPT}, "latency_ms": latency}


def memory_slope(rows: Sequence[Mapping[str, Any]]) -> float:
    """MiB of peak memory that a further slice costs, the phantom's own included, fitted over a sweep of slices."""
    return float(
        np.polyfit([row["slices"] for row in rows], [row["peak_memory_mib"] for row in rows], 1)[0]
    )


def table(report: Mapping[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [title(report)]
    for name, rows in report["sweeps"].items():
        lines += ["", f"| {name} | ms per slice | of it attend | peak MiB |", "|---" * 4 + "|"]
        lines += [
            f"| {row[name]} | {row['latency_ms']['total']:.1f} | {row['latency_ms']['attend']:.1f} | "
            f"{row['peak_memory_mib']} |"
            for row in rows
        ]
    return "\n".join(lines)


def title(report: Mapping[str, Any]) -> str:
    """What was measured, on what."""
    (first, *_), *_ = report["sweeps"].values()
    model = first["model"]
    if set(report["sweeps"]) != {"size"}:
        model += (
            f" at {first['model_image_size']} pixels, an encoded slice takes "
            f"{first['feature_mib_per_slice']} MiB"
        )
    if "mib_per_slice" in report:
        model += f", each further slice {report['mib_per_slice']} MiB in all"
    return f"{model}; {first['backend']}; {report['machine']}"
