"""`python -m benchmarks ceilings`: what this machine can do at the most, measured: copies, products, launches.

Whatever is timed elsewhere is set against these figures rather than against a data sheet. Data is random, because a
card that multiplies zeros draws less power and keeps a higher clock. Each figure is the median of several timings; on
CUDA the device times itself between events, and small products are replayed as one graph so that launches do not count.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm

from benchmarks.speed.devices import DEVICES, Sizes, check_device, clocks, default_device
from runtime.devices.machine import machine_name
from runtime.errors import InputError
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks ceilings                            # CUDA where it is, else the processor
  python -m benchmarks ceilings --device cpu --copy-mib 16 --side 256
  python -m benchmarks ceilings --device cuda | tail -n 1 > ceilings.json

The last line is JSON. GB/s of a copy counts bytes read and bytes written; of a transfer to or from the host, each once.
"""


USUAL = {"cpu": Sizes(64, 1024, 5), "cuda": Sizes(1024, 8192, 20)}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks ceilings", "Measure what this machine can do at the most.", EXAMPLES
    )
    p.add_argument(
        "--device", choices=DEVICES, default=default_device(), help="to measure (%(default)s)"
    )
    p.add_argument(
        "--copy-mib", type=int, metavar="N", help=f"size of a copy; {_usual('copy_mib')}"
    )
    p.add_argument(
        "--side", type=int, metavar="N", help=f"side of large products; {_usual('side')}"
    )
    p.add_argument("--repeat", type=int, metavar="N", help=f"timings of each; {_usual('repeat')}")
    return p


def _usual(name: str) -> str:
    """Defaults for the help text."""
    values = ", ".join(f"{getattr(sizes, name)} on {device}" for device, sizes in USUAL.items())
    return f"default: {values}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    import torch

    from benchmarks.speed.figures import figures

    check_device(args.device)
    asked = {"copy_mib": args.copy_mib, "side": args.side, "repeat": args.repeat}
    if wrong := [name for name, value in asked.items() if value is not None and value < 1]:
        option = wrong[0].replace("_", "-")
        raise InputError(f"found --{option} {asked[wrong[0]]}; wanted 1 or more")
    sizes = replace(USUAL[args.device], **{k: v for k, v in asked.items() if v is not None})
    before = clocks()
    values = {
        figure.name: {"value": float(f"{figure.measure():.4g}"), "unit": figure.unit}
        for figure in tqdm(figures(args.device, sizes), unit="figure", file=sys.stderr)
    }
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "machine": machine_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **asdict(sizes),
        "clocks": {"before": before, "after": clocks()},
        "figures": values,
    }
    print(table(report))
    print_result(report)


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [
        f"{report['device']}; {report['machine']}; PyTorch {report['torch']}",
        "",
        "| | | |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['value']:g} | {row['unit']} |" for name, row in report["figures"].items()
    ]
    return "\n".join(lines)
