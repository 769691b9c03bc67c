"""`python -m runtime.bench`: latency per slice by stage, on a synthetic volume of any size."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from tqdm import trange

from runtime.command import add_model_options, run_command
from runtime.contract import feature_bytes
from runtime.errors import InputError
from runtime.latency import (
    PERCENTILE,
    bench_phantom,
    check_sizes,
    steady,
    summarise,
    time_propagation,
)
from runtime.machine import machine_name, peak_memory_mib
from runtime.model import load

EXAMPLES = """examples:
  python -m runtime.bench                                  # the embedded model
  python -m runtime.bench --bundle medsam2 --objects 3 --threads 2
  python -m runtime.bench | tail -n 1 | python -m json.tool

Steps with a full memory are counted: every slice is encoded, read against 7 memories, decoded, remembered, and its
mask brought to the slice's size. The first pass warms up and is not counted. The last line is JSON.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.bench",
        description="Measure latency per slice by stage.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(p)
    p.add_argument("--slices", type=int, default=24, help="to track in each pass (%(default)s)")
    p.add_argument("--objects", type=int, default=1, help="to follow (%(default)s)")
    p.add_argument(
        "--prompted", type=int, default=1, metavar="N", help="slices to prompt (%(default)s)"
    )
    p.add_argument(
        "--image-size", type=int, default=512, help="side of the volume's slices (%(default)s)"
    )
    p.add_argument("--repeat", type=int, default=3, help="passes to count (%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if wanted := check_sizes(args.slices, args.objects, args.image_size):
        raise InputError(f"nothing to measure; wanted {wanted}")
    if args.repeat < 1:
        raise InputError("nothing to measure; wanted --repeat 1 or more")
    if not 1 <= args.prompted <= args.slices + 1:
        raise InputError(
            f"found --prompted {args.prompted}; wanted 1 to {args.slices + 1}, one more than --slices"
        )
    model = load(args.bundle, args.backend, args.threads, args.hint)
    phantom = bench_phantom(args.slices, args.image_size)
    passes = trange(args.repeat + 1, desc="bench", unit="pass", file=sys.stderr)
    runs = [
        time_propagation(model, phantom, args.objects, args.max_memory, args.prompted)
        for _ in passes
    ][1:]
    report: dict[str, Any] = {
        "model": model.numbers.name,
        "model_image_size": model.numbers.image_size,
        "backend": model.backend.description,
        "machine": machine_name(),
        "slices": args.slices,
        "objects": args.objects,
        "prompted": args.prompted,
        "threads": args.threads,
        "image_size": args.image_size,
        "repeat": args.repeat,
        "steps_counted": len(steady(runs, model.numbers.num_maskmem)),
        "latency_ms": summarise(runs, model.numbers.num_maskmem),
        "first_mask_ms": round(float(np.median([run.first_mask_ms for run in runs])), 3),
        "second_prompt_ms": round(float(np.median([run.second_prompt_ms for run in runs])), 3),
        "feature_mib_per_slice": round(feature_bytes(model.numbers) / 2**20, 3),
        "peak_memory_mib": peak_memory_mib() and round(peak_memory_mib() or 0.0),
    }
    report["slices_per_second"] = round(1e3 / report["latency_ms"]["total"]["median"], 2)
    print(table(report))
    print(json.dumps(report))


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {report['backend']}",
        f"{report['machine']}; {report['objects']} object(s), slices of {report['image_size']} pixels",
        "",
        f"{'ms per slice':>14} {'median':>9} {'p' + str(PERCENTILE):>9}",
    ]
    for column, row in report["latency_ms"].items():
        lines.append(f"{column:>14} {row['median']:>9.2f} {row[f'p{PERCENTILE}']:>9.2f}")
    lines += [
        "",
        f"{report['slices_per_second']} slices/s; first mask after {report['first_mask_ms']:.1f} ms, "
        f"of another prompt on that slice after {report['second_prompt_ms']:.1f} ms; "
        f"peak memory {report['peak_memory_mib']} MiB, of it {report['feature_mib_per_slice']} for each encoded slice",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
