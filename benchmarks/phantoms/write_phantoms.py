"""`python -m benchmarks phantoms`: labelled phantoms as files, to try things on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS, TRAINING_SEEDS, make_volume
from runtime.files.atomic import write_whole
from runtime.process.subcommands import command_parser

EXAMPLES = """examples:
  python -m benchmarks phantoms --count 20 -o phantoms/
  medsam2 calibrate BUNDLE --folder phantoms/
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
        "--held-out", action="store_true", help="those that quality is measured on, not trained on"
    )
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    args = p.parse_args(arguments)
    first = HELD_OUT_SEEDS if args.held_out else TRAINING_SEEDS
    for seed in tqdm(range(first, first + args.count), unit="volume", file=sys.stderr):
        phantom = make_volume(seed)
        args.output.mkdir(parents=True, exist_ok=True)
        arrays = {"imgs": phantom.pixels, "gts": phantom.labels, "spacing": np.ones(3)}
        write_whole(
            args.output / f"phantom{seed}.npz",
            lambda part, arrays=arrays: np.savez_compressed(part, **arrays),
        )
    print(args.output)
