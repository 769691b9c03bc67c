"""`python -m benchmarks.train_nano`: the recipe of the embedded demonstration model.

Sequences of phantom slices, one prompt on the first, every later slice from memory alone: the loop of the runtime, with
gradients. What they hold is in `cuts.py` and `views.py`: whole slices and windows about an object, objects that end,
slices that are moved apart, pictures without order. `benchmarks/nano/README.md` says what is known.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

if TYPE_CHECKING:
    from benchmarks.training.ranks import Rank

EXAMPLES = """examples:
  python -m benchmarks.train_nano --start nano_fp16.pt --minutes 600 -o out/nano
  python -m benchmarks.train_nano --start nano_fp16.pt --minutes 600 -o out/nano --resume
  python -m benchmarks.train_nano --start out/nano/nano.pt --minutes 60 -o out/clicks --only sam_
  python -m benchmarks.train_nano --start nano_fp16.pt --minutes 25 --device cuda --scale 8 --workers 14 -o out/nano
  medsam2 export --checkpoint out/nano/nano.pt --weights-kind demonstration --licence Apache-2.0 \\
    -o runtime/nano --overwrite
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks.train_nano",
        "Train the embedded demonstration model on phantoms.",
        EXAMPLES,
    )
    p.add_argument(
        "--start", type=Path, required=True, metavar="F.pt", help="weights to begin with"
    )
    p.add_argument(
        "--minutes", type=float, default=60.0, help="in all, over every resumption (%(default)s)"
    )
    p.add_argument(
        "--pool",
        type=Path,
        default=Path("out/pool"),
        help="of phantoms, made as they are needed and kept (%(default)s)",
    )
    p.add_argument("--volumes", type=int, default=400, help="how many of them (%(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    p.add_argument(
        "--ranks",
        type=_some,
        metavar="N",
        help="processes of one thread that share each step on a CPU; default: one for each core",
    )
    p.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="times as many sequences a step, for a GPU",
    )
    p.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="further processes of each rank that cut sequences, for a GPU (%(default)s)",
    )
    p.add_argument(
        "--only",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="NAME,...",
        help="train parameters whose names begin so, and leave the others; default: all",
    )
    p.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return p


def _some(text: str) -> int:
    """A count, 1 at least."""
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    from benchmarks.training.ranks import share
    from runtime.devices.machine import logical_cores

    args.output.mkdir(parents=True, exist_ok=True)
    on_cpu = args.device == "cpu"
    share(args.ranks or (logical_cores() if on_cpu else 1), partial(_train, args))
    print_result({"weights": str(args.output / "nano.pt")})


def _train(args: argparse.Namespace, rank: Rank) -> None:
    """What each rank does."""
    from benchmarks.training.pool import Pool
    from benchmarks.training.trainer import Trainer, train

    trainer = Trainer.begin(args.start, args.device, args.only, rank)
    if args.resume:
        trainer.resume(args.output)
    pool = Pool(args.pool, args.volumes)
    train(trainer, pool, args.minutes, args.output, args.seed, args.scale, args.workers)
