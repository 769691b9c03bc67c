"""`python -m export`: a checkpoint to a bundle."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process import run_command

    run_command("export.__main__")

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from export.quantise import MAX_DICE_DROP
from export.variants import VARIANTS
from runtime.bundle import CAUTIONS
from runtime.manifest import PRECISIONS
from runtime.streams import print_result

if TYPE_CHECKING:
    from export.model.sam2 import Sam2

EXAMPLES = """examples:
  medsam2 export --checkpoint MedSAM2_latest.pt -o medsam2
  medsam2 export --checkpoint hf:wanglab/MedSAM2/MedSAM2_latest.pt -o medsam2
  medsam2 export --checkpoint sam2.1_hiera_tiny.pt --model sam2.1_hiera_t --image-size 512 -o tiny512
  medsam2 export --checkpoint sam2.1_hiera_tiny.pt --image-size 512 --encoder int8 -o tiny512-int8
  medsam2 export --random-weights 0 --model sam2.1_hiera_t --image-size 512 -o random512   # to benchmark
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="medsam2 export",
        description="Export a SAM 2-family checkpoint to a bundle of four ONNX graphs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="F.pt", help="a file, or hf:OWNER/REPOSITORY/FILE")
    source.add_argument("--random-weights", type=int, metavar="SEED", help="seeded random weights")
    source.add_argument("--list-models", action="store_true", help="print the models and stop")
    p.add_argument(
        "--model", choices=VARIANTS, help="default: found from the checkpoint's shapes and name"
    )
    p.add_argument(
        "--image-size", type=int, help="pixels, a multiple of 32; default: the model's own"
    )
    p.add_argument(
        "--encoder",
        choices=PRECISIONS,
        default="fp32",
        help="int8: its weights in eight bits, if masks of phantoms stay as good (default: %(default)s)",
    )
    p.add_argument(
        "--max-dice-drop",
        type=float,
        default=MAX_DICE_DROP,
        metavar="D",
        help="what int8 may lose (%(default)s)",
    )
    p.add_argument(
        "--weights-kind",
        choices=[kind for kind in CAUTIONS if kind != "random"],
        default="checkpoint",
        help="'demonstration' makes every use of the bundle print a caution",
    )
    p.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    p.add_argument("-o", "--output", type=Path, metavar="BUNDLE", help="folder to write")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = parser()
    args = p.parse_args(arguments)
    if args.list_models:
        print_result({name: _summary(name) for name in VARIANTS}, indent=1)
        return
    if args.output is None:
        p.error("-o BUNDLE is needed")
    if args.random_weights is not None and args.model is None:
        p.error("--random-weights needs --model")
    from export.write_bundle import check_target, write_bundle  # only now: --help needs no torch

    check_target(args.output, args.overwrite)
    started = time.perf_counter()
    model, weights, licence = _random(args) if args.checkpoint is None else _checkpoint(args)
    path = write_bundle(
        model,
        args.output,
        weights,
        licence,
        encoder=args.encoder,
        max_dice_drop=args.max_dice_drop,
        overwrite=args.overwrite,
        progress=_bar,
    )
    if caution := CAUTIONS[weights["kind"]]:
        print(f"{path}: {caution}", file=sys.stderr)
    size = sum(file.stat().st_size for file in path.iterdir())
    print_result(
        {
            "bundle": str(path),
            "model": model.numbers.name,
            "image_size": model.numbers.image_size,
            "size_bytes": size,
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


def _summary(name: str) -> dict[str, object]:
    import torch

    from export.model.sam2 import Sam2

    variant = VARIANTS[name]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Sam2(variant).parameters())
    return {"parameters": parameters, "image_size": variant.image_size, "licence": variant.licence}


def _checkpoint(args: argparse.Namespace) -> tuple[Sam2, dict[str, Any], str]:
    from export.checkpoint import load_model, read_checkpoint

    checkpoint = read_checkpoint(args.checkpoint, args.model)
    model = load_model(checkpoint, args.image_size)
    weights = {"kind": args.weights_kind, "source": checkpoint.source, "sha256": checkpoint.sha256}
    return model, weights, checkpoint.variant.licence


def _random(args: argparse.Namespace) -> tuple[Sam2, dict[str, Any], str]:
    from export.model.sam2 import Sam2
    from export.random_weights import fingerprint, random_state

    variant, seed = VARIANTS[args.model], args.random_weights
    model = Sam2(variant, args.image_size)
    state = random_state(model, seed)
    model.load_state_dict(state, strict=True)
    weights = {"kind": "random", "source": "random", "seed": seed, "sha256": fingerprint(state)}
    return model, weights, variant.licence


def _bar(graphs: Sequence[str]) -> Iterator[str]:
    """A bar that names the graph being traced and moves on when it is done."""
    with tqdm(graphs, unit="graph", file=sys.stderr) as bar:
        for graph in bar:
            bar.set_description(graph)
            yield graph
