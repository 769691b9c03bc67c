"""`python -m benchmarks phantoms`: labelled phantoms as files, to try things on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.phantoms.phantoms import (
    CALIBRATION_SEEDS,
    HELD_OUT_SEEDS,
    TRAINING_SEEDS,
    make_volume,
)
from runtime.errors import InputError
from runtime.files.atomic import write_whole
from runtime.process.subcommands import command_parser

SEEDS = {
    "training": TRAINING_SEEDS,
    "calibration": CALIBRATION_SEEDS,
    "held-out": HELD_OUT_SEEDS,
}

EXAMPLES = """examples:
  python -m benchmarks phantoms --count 20 --of calibration -o phantoms/
  medsam2 calibrate BUNDLE --folder phantoms/
  medsam2 calibrate BUNDLE --folder phantoms/ --defaults --objects 1
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = command_parser(
        "python -m benchmarks phantoms",
        "Write phantoms as .npz files with imgs (z, y, x), gts and spacing.",
        EXAMPLES,
    )
    p.add_argument("--count", type=int, default=12, help="default: %(default)s")
    p.add_argument(
        "--of",
        choices=list(SEEDS),
        default="training",
        help="what is done with them: trained on, calibrated on, quality measured on (%(default)s)",
    )
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    args = p.parse_args(arguments)
    if args.count < 1:
        raise InputError(f"found --count {args.count}; wanted 1 or more")
    first = SEEDS[args.of]
    for seed in tqdm(range(first, first + args.count), unit="volume", file=sys.stderr):
        phantom = make_volume(seed)
        args.output.mkdir(parents=True, exist_ok=True)
        arrays = {"imgs": phantom.pixels, "gts": phantom.labels, "spacing": np.ones(3)}
        write_whole(
            args.output / f"phantom{seed}.npz",
            lambda part, arrays=arrays: np.savez_compressed(part, **arrays),
        )
    print(args.output)
