"""`medsam2 bench`, or `python -m runtime.bench`: latency per slice by stage, on a synthetic volume of any size."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kernels.device import device_name
from runtime.bundle.contract import feature_bytes
from runtime.commands.options import add_model_options
from runtime.devices.machine import machine_name, peak_memory_mib
from runtime.errors import InputError
from runtime.measure.cuda_latency import summarise_device, time_on_device
from runtime.measure.latency import (
    PERCENTILE,
    STAGES,
    TimedRun,
    bench_phantom,
    check_sizes,
    percent_of_roofline,
    steady,
    summarise,
    time_propagation,
    time_volume,
)
from runtime.measure.phantom import Phantom
from runtime.model import Model, load
from runtime.process.counted import counted
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser
from runtime.steps.cuda.steps import CudaSteps

DRAWN_EVERY_S = 1.0

EXAMPLES = """examples:
  medsam2 bench                                  # the embedded model
  medsam2 bench --bundle medsam2 --objects 3 --threads 2
  medsam2 bench | tail -n 1 | python -m json.tool

Steps with a full memory are counted: every slice is encoded, read against 7 memories, decoded, remembered, and its
mask brought to the slice's size. The first pass warms up and is not counted. The last line is JSON.

Steps are those of one direction, one slice at a time. A whole volume goes both ways from its middle; on a few cores two
slices at a time have a core each where that is found to be faster, so that a slice of it may take less than a step.

On a CUDA device a step's time is that of the graph it is replayed as (device), and whatever the host adds to it until
its mask has arrived; stages are device time between events, a mean for a slice, from a pass that runs graph by graph.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser("medsam2 bench", "Measure latency per slice by stage.", EXAMPLES)
    add_model_options(p)
    p.add_argument("--slices", type=int, default=24, help="to track in each pass (%(default)s)")
    p.add_argument("--objects", type=int, default=1, help="to follow (%(default)s)")
    p.add_argument(
        "--prompted", type=int, default=1, metavar="N", help="slices to prompt (%(default)s)"
    )
    p.add_argument(
        "--image-size", type=int, default=512, help="side of the volume's slices (%(default)s)"
    )
    p.add_argument(
        "--lengths",
        choices=["full", "exact"],
        default="full",
        help="on a CUDA device: pad steps to a full memory, or run each length as it is (%(default)s)",
    )
    p.add_argument(
        "--roofline",
        metavar="F.json",
        help="of python -m benchmarks roofline: says how near each stage comes to its floor",
    )
    p.add_argument("--repeat", type=int, default=3, help="passes to count (%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    _check(args)
    floors = _floors(args.roofline)
    started = time.perf_counter()
    model = load(args.bundle, args.backend, args.threads, args.hint)
    is_single = model.numbers.kind == "image"
    if is_single and args.prompted != 1:
        raise InputError(
            f"{model.numbers.name} has no memory: every slice is prompted; leave --prompted out"
        )
    for graph in model.numbers.graphs:
        model.engine(graph)
    load_s = time.perf_counter() - started
    if isinstance(model.steps, CudaSteps):
        model.steps.pads = args.lengths == "full"
    elif args.lengths != "full":
        raise InputError("found --lengths exact; on the host there is nothing else")
    phantom = bench_phantom(args.slices, args.image_size)
    measure = _on_device if isinstance(model.steps, CudaSteps) and not is_single else _on_host
    # Steps of one direction and a whole volume, in whose time the bar is drawn: once a second costs nothing.
    to_do = (args.repeat + 1) * (args.slices + len(phantom.pixels))
    with tqdm(
        total=to_do, desc="bench", unit="slice", file=sys.stderr, mininterval=DRAWN_EVERY_S
    ) as bar:
        runs, figures = measure(model, phantom, args, bar.update)
    report = _report(model, args, runs, figures, load_s)
    if floors is not None:
        report["percent_of_roofline"] = percent_of_roofline(report["latency_ms"], floors)
    print(table(report))
    print_result(report)


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for numbers of which nothing can be measured."""
    check_sizes(args.slices, args.objects, args.image_size)
    if args.repeat < 1:
        raise InputError("nothing to measure; wanted --repeat 1 or more")
    if not 1 <= args.prompted <= args.slices + 1:
        raise InputError(
            f"found --prompted {args.prompted}; wanted 1 to {args.slices + 1}, one more than --slices"
        )


def _report(
    model: Model,
    args: argparse.Namespace,
    runs: list[TimedRun],
    figures: dict[str, Any],
    load_s: float,
) -> dict[str, Any]:
    """What was measured of what, where; the first of the runs warms up, and `figures` are of the others."""
    cold, *warm = runs
    peak_mib = peak_memory_mib()
    step_ms = figures["latency_ms"]["total"]
    return {
        "model": model.numbers.name,
        "model_image_size": model.numbers.image_size,
        "backend": model.backend.description,
        "machine": machine_name(),
        "device": device_name(),
        "slices": args.slices,
        "objects": args.objects,
        "prompted": args.prompted,
        "threads": args.threads,
        "image_size": args.image_size,
        "repeat": args.repeat,
        "steps_counted": len(steady(warm, model.numbers.num_maskmem)),
        **figures,
        "load_s": round(load_s, 3),
        "cold_first_mask_ms": round(cold.first_mask_ms, 3),
        "first_mask_ms": round(float(np.median([run.first_mask_ms for run in warm])), 3),
        "second_prompt_ms": round(float(np.median([run.second_prompt_ms for run in warm])), 3),
        "feature_mib_per_slice": round(feature_bytes(model.numbers) / 2**20, 3),
        "peak_memory_mib": peak_mib and round(peak_mib),
        "slices_per_second": round(1e3 / step_ms.get("mean", step_ms["median"]), 2),
    }


def _floors(path: str | None) -> dict[str, Any] | None:
    """Stages of a roofline report. Raises InputError for what is none."""
    if path is None:
        return None
    try:
        floors: dict[str, Any] = json.loads(Path(path).read_bytes())["stages"]
        if not floors.keys() <= {*STAGES.values(), "total"}:
            raise ValueError(f"it has {', '.join(floors)}")
        for row in floors.values():
            float(row["floor_ms"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no report of python -m benchmarks roofline ({error}); write its last line there"
        ) from error
    return floors


def _on_host(
    model: Model, phantom: Phantom, args: argparse.Namespace, on_slice: Callable[[], object]
) -> tuple[list[TimedRun], dict[str, Any]]:
    runs, volumes_ms = [], []
    asked = (model, phantom, args.objects, args.max_memory)
    for _ in range(args.repeat + 1):
        runs.append(time_propagation(*asked, args.prompted, on_slice))
        volumes_ms.append(time_volume(*asked, on_slice))
    figures = {
        "latency_ms": summarise(runs[1:], model.numbers.num_maskmem),
        **_volume_figures(phantom, volumes_ms[1:]),
    }
    return runs, figures


def _volume_figures(phantom: Phantom, volumes_ms: list[float]) -> dict[str, Any]:
    """Of whole volumes, from pixels to masks, in which directions and slices may share the processor."""
    return {
        "volume_ms": round(float(np.median(volumes_ms)), 3),
        "volume_slices": len(phantom.pixels),
    }


def _on_device(
    model: Model, phantom: Phantom, args: argparse.Namespace, on_slice: Callable[[], object]
) -> tuple[list[TimedRun], dict[str, Any]]:
    asked = (model, phantom, args.objects, args.max_memory, args.prompted, on_slice)
    measured = [time_on_device(*asked) for _ in range(args.repeat + 1)]
    warm = measured[1:]
    figures = {
        "latency_ms": summarise_device(warm, model.numbers.num_maskmem),
        **_volume_figures(phantom, [timed.volume_ms for timed in warm]),
        "launches_per_step": warm[-1].launches_per_step,
        "device_memory_mib": round(max(timed.device_memory_mib for timed in measured), 1),
    }
    return [timed.run for timed in measured], figures


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {report['backend']}",
        f"{report['machine']}; {counted(report['objects'], 'object')}, slices of {report['image_size']} pixels",
        "",
        f"{'ms per slice':>14} {'median':>9} {'p' + str(PERCENTILE):>9}",
    ]
    for column, row in report["latency_ms"].items():
        middle, late = row.get("median", row.get("mean")), row.get(f"p{PERCENTILE}")
        lines.append(f"{column:>14} {middle:>9.3f} {'' if late is None else f'{late:.3f}':>9}")
        if column in report.get("percent_of_roofline", {}):
            lines[-1] += f"  {report['percent_of_roofline'][column]:.1f} % of the roofline"
    volume_ms, num_slices = report["volume_ms"], report["volume_slices"]
    lines += [
        "",
        f"a volume of {num_slices} slices in both directions {volume_ms:.1f} ms, {volume_ms / num_slices:.1f} a slice",
    ]
    if "launches_per_step" in report:
        lines[-1] += (
            f"; {report['launches_per_step']} launches in a step's graph; {report['device_memory_mib']:.0f} MiB on it"
        )
    lines += [
        "",
        f"{report['slices_per_second']} slices/s; first mask after {report['first_mask_ms']:.1f} ms, "
        f"of another prompt on that slice after {report['second_prompt_ms']:.1f} ms; "
        f"peak memory {report['peak_memory_mib']} MiB, of it {report['feature_mib_per_slice']} for each encoded slice",
    ]
    return "\n".join(lines)
