"""`medsam2 export`: a checkpoint to a bundle."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process.run import run_command

    run_command("export.__main__")

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from export.dice_check import MAX_DICE_DROP
from export.variants import VARIANTS
from runtime.bundle.manifest import CAUTIONS, MAX_SEED, PRECISIONS, UNKNOWN
from runtime.files.strict_json import Fault, Text
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

if TYPE_CHECKING:  # what needs torch is imported when it is needed, not to say what there is
    from export.model.network import Network

EXAMPLES = """examples:
  medsam2 export --checkpoint MedSAM2_latest.pt --licence CC-BY-SA-4.0 -o medsam2
  medsam2 export --checkpoint hf:wanglab/MedSAM2/MedSAM2_latest.pt -o medsam2
  medsam2 export --checkpoint sam2.1_hiera_tiny.pt --model sam2.1_hiera_t --image-size 512 -o tiny512
  medsam2 export --checkpoint sam2.1_hiera_tiny.pt --image-size 512 --precision int8 -o tiny512
  medsam2 export --random-weights 0 --model sam2.1_hiera_t --image-size 512 -o random512   # to benchmark
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 export",
        "Export a checkpoint of the SAM family to a bundle of ONNX graphs.",
        EXAMPLES,
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="a .pt or .safetensors file, or hf:OWNER/REPOSITORY/FILE",
    )
    source.add_argument(
        "--random-weights", type=parse_seed, metavar="SEED", help="seeded random weights"
    )
    source.add_argument("--list-models", action="store_true", help="print the models and stop")
    p.add_argument(
        "--model", choices=VARIANTS, help="default: found from the checkpoint's shapes and name"
    )
    p.add_argument(
        "--entry", metavar="NAME", help="which of several sets of weights in the file, such as ema"
    )
    p.add_argument(
        "--licence",
        type=parse_licence,
        metavar="NAME",
        help="of the weights, as their page says, such as CC-BY-SA-4.0; written into the bundle (default: unknown)",
    )
    p.add_argument(
        "--image-size",
        type=int,
        help="pixels, a multiple of 32 (EfficientTAM: 16); default: the model's own",
    )
    p.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="int8: graphs in eight bits beside those in fp32, if masks of phantoms stay as good; medsam2 certify says "
        "whether they pay on a machine (default: %(default)s)",
    )
    p.add_argument(
        "--max-dice-drop",
        type=parse_drop,
        default=MAX_DICE_DROP,
        metavar="D",
        help="what int8 may lose of the mean Dice of phantoms (default: %(default)s)",
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


def parse_seed(text: str) -> int:
    """A seed that torch takes. Raises argparse's error."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"found '{text}'; wanted an integer from 0 to {MAX_SEED}")
    return int(text)


def parse_drop(text: str) -> float:
    """A loss of Dice. Raises argparse's error."""
    try:
        drop = float(text)
    except ValueError:
        drop = -1.0
    if not 0 <= drop <= 1:
        raise argparse.ArgumentTypeError(f"found '{text}'; wanted a number from 0 to 1")
    return drop


def parse_licence(text: str) -> str:
    """A name that a manifest takes. Raises argparse's error."""
    try:
        Text().check(text, "")
    except Fault as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault
    return text


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
    print_result(_export(args))


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from export.write_bundle import check_target, write_bundle

    check_target(args.output, args.overwrite)
    started = time.perf_counter()
    model, weights = _random(args) if args.checkpoint is None else _checkpoint(args)
    path = write_bundle(
        model,
        args.output,
        weights,
        args.licence or UNKNOWN,
        precision=args.precision,
        max_dice_drop=args.max_dice_drop,
        overwrite=args.overwrite,
        progress=_bar,
    )
    if caution := CAUTIONS[weights["kind"]]:
        _say(f"{path}: {caution}")
    return {
        "bundle": str(path),
        "model": model.numbers.name,
        "image_size": model.numbers.image_size,
        "weights": weights,
        "licence": args.licence or UNKNOWN,
        "size_bytes": sum(file.stat().st_size for file in path.iterdir()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _summary(name: str) -> dict[str, object]:
    variant = VARIANTS[name]
    return {
        "image_size": variant.image_size,
        "blocks": variant.trunk.num_blocks,
        "channels": variant.trunk.channels,
    }


def _checkpoint(args: argparse.Namespace) -> tuple[Network, dict[str, Any]]:
    from export.checkpoints.checkpoint import load_model, read_checkpoint

    checkpoint = read_checkpoint(args.checkpoint, args.model, args.entry)
    if checkpoint.others:
        _say(f"{checkpoint.others} tensors beside '{checkpoint.entry}' are left out")
    if args.licence is None:
        _say(f"the licence of these weights is written down as {UNKNOWN}; --licence NAME says it")
    model = load_model(checkpoint, args.image_size)
    weights = {"kind": args.weights_kind, "source": checkpoint.source, "sha256": checkpoint.sha256}
    return model, weights | ({"entry": checkpoint.entry} if checkpoint.entry else {})


def _random(args: argparse.Namespace) -> tuple[Network, dict[str, Any]]:
    from export.model.network import network
    from export.random_weights import fingerprint, random_state

    seed = args.random_weights
    model = network(VARIANTS[args.model], args.image_size)
    state = random_state(model, seed)
    model.load_state_dict(state, strict=True)
    weights = {"kind": "random", "source": "random", "seed": seed, "sha256": fingerprint(state)}
    return model, weights


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _bar(graphs: Sequence[str]) -> Iterator[str]:
    """A bar that names the graph being traced and moves on when it is done."""
    with tqdm(graphs, unit="graph", file=sys.stderr) as bar:
        for graph in bar:
            bar.set_description(graph)
            yield graph
