"""`python -m benchmarks rivals`: a bundle's back ends against PyTorch, with the same weights, pixels and machine.

PyTorch comes as the official package's predictors (eager in fp32 and bf16, with a compiled encoder, `vos_optimized`,
and with its modules replayed as CUDA graphs) and as this project's own definition of the model, which is timed graph by
graph and whose fp32 is the truth. Passes alternate between the contenders, so that a machine's moods fall on all of
them. Speed is never shown without the match beside it: largest error of any slice's logits, and Dice of all masks and
of the worst slice, against PyTorch fp32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from benchmarks.speed.contenders import CONTENDERS, TRUTH, Contender, Race, truth
from benchmarks.speed.devices import (
    DEVICES,
    Meter,
    check_device,
    default_device,
    memory_readers,
    precise_fp32,
)
from benchmarks.speed.rivals_table import table
from export.verify import reference_for
from runtime.bundle.bundle import open_bundle
from runtime.devices.machine import machine_name
from runtime.errors import BackendUnavailable, InputError
from runtime.measure.latency import MOST_SLICES, TimedRun, bench_phantom, check_sizes, summarise
from runtime.measure.phantom import Phantom, make_phantom
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  medsam2 export --random-weights 2 --model sam2.1_hiera_t --image-size 512 -o random512
  python -m benchmarks rivals random512
  python -m benchmarks rivals medsam2 --checkpoint MedSAM2_latest.pt --contenders ort,openvino-bf16,official-bf16
  python -m benchmarks rivals random512 --device cuda --volume 128 --contenders official-bf16,official-graph

A contender that cannot run here is named with its reason. Compiled ones take minutes to warm up; their first pass (on
CUDA three: to compile, to record, and to see how much memory it takes), like every other's, is not counted.
"""
WARM_UPS = {
    "cpu": 1,
    "cuda": 3,
}  # the last one with the meter on; PyTorch records its graphs in the second
MAX_REASON = 200  # characters of a failure that are reported
MIN_VOLUME = 3  # slices: one each way from the middle
Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender that has run.

    Attributes:
        contender: opened and warm.
        first: its first pass, which is compared with the truth.
        memory_mib: how far memory grew, from before it was opened to the peak of a pass: "host" and, on CUDA, "device".
    """

    contender: Contender
    first: TimedRun
    memory_mib: Mapping[str, float]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks rivals",
        "Race a bundle against the PyTorch model it was made from.",
        EXAMPLES,
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
        "--volume",
        type=int,
        metavar="N",
        help="also time a volume of N slices in both directions, end to end; default: none",
    )
    p.add_argument(
        "--device",
        choices=DEVICES,
        default=default_device(),
        help="of PyTorch, ours and the official package's (%(default)s)",
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    import torch

    names = _checked(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    precise_fp32()
    bundle = open_bundle(args.bundle)
    race = Race(bundle, reference_for(bundle, args.checkpoint), args.threads, args.device)
    phantom = bench_phantom(args.slices, args.image_size)
    absent: dict[str, str] = {}
    entries = _enter(names, race, phantom, args.objects, absent)
    runs = _alternate(
        entries, lambda contender: contender.run(phantom, args.objects), args.repeat, "run", absent
    )
    if not runs:
        raise InputError(f"none of them can run here: {absent}")
    volumes = _volumes({name: entries[name] for name in runs}, args, absent)
    right = entries[TRUTH].first if TRUTH in runs else truth(race).run(phantom, args.objects)
    report: dict[str, Any] = {
        "model": bundle.model.name,
        "model_image_size": bundle.model.image_size,
        "weights": bundle.weights["kind"],
        "machine": machine_name(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "threads": args.threads,
        "objects": args.objects,
        "slices": args.slices,
        "volume_slices": args.volume,
        "repeat": args.repeat,
        "contenders": {
            name: {
                "description": entries[name].contender.description,
                "latency_ms": summarise(own, bundle.model.num_maskmem),
                "first_mask_ms": float(np.median([run.first_mask_ms for run in own])),
                "volume_ms": volumes.get(name),
                "memory_mib": entries[name].memory_mib,
                **match(entries[name].first, right),
            }
            for name, own in runs.items()
        },
        "absent": absent,
    }
    _add_ratios(report["contenders"])
    print(table(report))
    print_result(report)


def _checked(args: argparse.Namespace) -> list[str]:
    """Names of the contenders wanted. Raises InputError, BackendUnavailable for a device that is not here."""
    check_sizes(args.slices, args.objects, args.image_size)
    if args.repeat < 1:
        raise InputError("nothing to measure; wanted --repeat 1 or more")
    if args.volume is not None and not MIN_VOLUME <= args.volume <= MOST_SLICES:
        raise InputError(
            f"found --volume {args.volume}; wanted {MIN_VOLUME} slices or more, {MOST_SLICES} at most"
        )
    names = args.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise InputError(f"no contender '{unknown[0]}'; there are: {', '.join(CONTENDERS)}")
    check_device(args.device)
    return names


def _enter(
    names: list[str], race: Race, phantom: Phantom, num_objects: int, absent: dict[str, str]
) -> dict[str, Entry]:
    """Open and warm up, one after the other; who cannot goes to `absent` with the reason."""
    entries = {}
    for name in tqdm(names, desc="warm up", unit="contender", file=sys.stderr):
        try:
            entries[name] = _warm(name, race, phantom, num_objects)
        except BackendUnavailable as error:
            absent[name] = str(error)
        except Exception as error:  # a rival that cannot is a result too
            absent[name] = _reason(error)
    return entries


def _warm(name: str, race: Race, phantom: Phantom, num_objects: int) -> Entry:
    _give_back(race.device)
    meter = Meter(memory_readers(race.device))
    contender = CONTENDERS[name](race)
    runs = [contender.run(phantom, num_objects) for _ in range(WARM_UPS[race.device] - 1)]
    _give_back(race.device)
    with meter:
        runs.append(contender.run(phantom, num_objects))
    return Entry(contender, runs[0], meter.grown_mib)


def _give_back(device: str) -> None:
    """Return to the device what PyTorch only keeps for later, which would hide what the next pass takes."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _alternate(
    entries: Mapping[str, Entry],
    measure: Callable[[Contender], Measured],
    repeat: int,
    what: str,
    absent: dict[str, str],
) -> dict[str, list[Measured]]:
    """Everyone's passes in turn; who fails is moved to `absent`."""
    measured: dict[str, list[Measured]] = {name: [] for name in entries}
    with tqdm(total=repeat * len(entries), desc=what, unit="pass", file=sys.stderr) as bar:
        for _ in range(repeat):
            for name in list(measured):
                bar.set_description(f"{what} {name}")
                try:
                    measured[name].append(measure(entries[name].contender))
                except Exception as error:  # as above
                    absent.setdefault(name, _reason(error))
                    del measured[name]
                bar.update()
    return measured


def _volumes(
    entries: Mapping[str, Entry], args: argparse.Namespace, absent: dict[str, str]
) -> dict[str, float]:
    """Median milliseconds of everyone's volumes, the first of each not counted; nothing if none are wanted."""
    if args.volume is None:
        return {}
    phantom = make_phantom((args.volume, args.image_size, args.image_size))
    times = _alternate(
        entries,
        lambda contender: contender.volume_ms(phantom, args.objects),
        args.repeat + 1,
        "volume",
        absent,
    )
    return {name: round(float(np.median(own[1:])), 3) for name, own in times.items()}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:MAX_REASON]}"


def _add_ratios(entries: dict[str, Any]) -> None:
    """Set everyone's latency in ratio to the first one's, and whole volumes likewise."""
    totals = {name: entry["latency_ms"]["total"]["median"] for name, entry in entries.items()}
    base = next(iter(totals))
    for name, entry in entries.items():
        entry["times_first"] = round(totals[name] / totals[base], 2)
        volume_ms, first_ms = entry["volume_ms"], entries[base]["volume_ms"]
        ratio = round(volume_ms / first_ms, 2) if volume_ms and first_ms else None
        entry["volume_times_first"] = ratio


def match(run: TimedRun, truth: TimedRun) -> dict[str, float]:
    """Worst relative error of logits, Dice of all masks together, and of the worst slice."""
    errors, dices, both, total = [], [], 0, 0
    for key, right in truth.logits.items():
        logits = run.logits[key]
        errors.append(np.abs(logits - right).max() / np.abs(right).max())
        a, b = logits > 0, right > 0
        common, either = int((a & b).sum()), int(a.sum() + b.sum())
        dices.append(2 * common / either if either else 1.0)
        both, total = both + common, total + either
    return {
        "worst_relative_error": float(np.max(errors)),  # NaN if any is
        "dice": 2 * both / total if total else 1.0,
        "lowest_dice": float(min(dices)),
    }
