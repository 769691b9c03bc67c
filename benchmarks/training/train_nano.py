"""`python -m benchmarks.train_nano`: the recipe of the embedded demonstration model.

Sequences of phantom slices, one prompt on the first, every later slice from memory alone: the loop of the runtime, with
gradients. What they hold is in `cuts.py` and `views.py`: whole slices and windows about an object, objects that end,
slices that are moved apart, pictures without order. `benchmarks/nano/README.md` says what is known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

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
    p.add_argument("--threads", type=int, metavar="N", help="default: one for each core")
    p.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
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
        default=1,
        metavar="N",
        help="processes that cut sequences; 0: none but this (%(default)s)",
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    import torch

    from benchmarks.training.pool import Pool
    from benchmarks.training.trainer import Trainer, train

    if args.threads:
        torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer.begin(args.start, args.device, args.only)
    if args.resume:
        trainer.resume(args.output)
    # A setting of the whole process: put back, or others would compute with it.
    torch.set_flush_denormal(True)
    try:
        train(
            trainer,
            Pool(args.pool, args.volumes),
            args.minutes,
            args.output,
            args.seed,
            args.scale,
            args.workers,
        )
    finally:
        torch.set_flush_denormal(False)
    print_result({"weights": str(args.output / "nano.pt"), "steps": trainer.step})
