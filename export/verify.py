"""`medsam2 verify`: does a bundle compute what the torch model computes? The answer is a certificate."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process.run import run_command

    run_command("export.verify")

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from export.conditioning import parted, settled, weighed
from export.variants import VARIANTS
from runtime import load
from runtime.backends import BACKENDS, DEFAULT
from runtime.backends.certificate import Certificate, write
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.commands.certify import add_slices_option, check_slices, compare
from runtime.errors import CheckpointError, Mismatch
from runtime.files.atomic import check_destination
from runtime.measure.parity import DEFAULT_SLICES
from runtime.measure.parting import OTHER_PHANTOMS
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

if TYPE_CHECKING:
    from export.model.network import Network

EXAMPLES = """examples:
  medsam2 verify medsam2 --checkpoint MedSAM2_latest.pt
  medsam2 verify random512                        # a bundle of random weights knows its seed
"""


def verify(
    bundle: Bundle, torch_reference: Network, backend: str, num_slices: int = DEFAULT_SLICES
) -> Certificate:
    """Compare and certify.

    A back end in fp32 that does not pass is weighed by how much the weights magnify rounding (`export.conditioning`).

    Args:
        bundle: what to verify.
        torch_reference: the model it was exported from, weights loaded.
        backend: where the bundle runs.
        num_slices: of each propagation.

    Returns the certificate as JSON-able data; `passed` is its verdict.
    """
    import torch

    from export.torch_backend import torch_model

    reference, candidate = torch_model(torch_reference), load(bundle, backend)
    compared = compare(bundle, backend, reference, candidate, num_slices)
    precision = BACKENDS[backend].precision
    if not compared["passed"] and precision == "fp32":
        exact = torch_model(torch_reference, torch.float64)
        found, own = (
            compare(bundle, backend, exact, model, num_slices) for model in (candidate, reference)
        )
        compared = weighed(found, own)
        if parted(compared):
            again = compare(bundle, backend, exact, candidate, num_slices, OTHER_PHANTOMS[0])
            compared = settled(compared, again)
    return {**compared, "weights": bundle.weights, "precision": precision}


def reference_for(bundle: Bundle, checkpoint: str | None) -> Network:
    """The torch model a bundle claims to be; CheckpointError if the checkpoint is another one."""
    from export.checkpoints.checkpoint import load_model, read_checkpoint
    from export.model.network import network
    from export.random_weights import fingerprint, random_state

    size, weights = bundle.model.image_size, bundle.weights
    if checkpoint is None:
        if weights["kind"] != "random":
            raise CheckpointError(
                f"{bundle.path} was made from {weights['source']}; name it with --checkpoint"
            )
        if bundle.model.name not in VARIANTS or "seed" not in weights:
            raise CheckpointError(
                f"{bundle.path} has random weights of {bundle.model.name} without a seed, or of a model that this "
                "exporter does not have; export it again"
            )
        model = network(VARIANTS[bundle.model.name], size)
        state = random_state(model, weights["seed"])
        if fingerprint(state) != weights.get("sha256"):
            raise CheckpointError(
                f"{bundle.path} has random weights of another version of this exporter; export it again"
            )
        model.load_state_dict(state, strict=True)
        return model
    read = read_checkpoint(checkpoint, bundle.model.name, weights.get("entry"))
    if read.sha256 != weights.get("sha256"):
        raise CheckpointError(
            f"{checkpoint} is not the file that {bundle.path} was made from (SHA-256 differs)"
        )
    return load_model(read, size)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 verify",
        "Certify that a bundle computes what its checkpoint's torch model computes.",
        EXAMPLES,
    )
    p.add_argument("bundle", metavar="BUNDLE")
    p.add_argument("--checkpoint", metavar="F.pt", help="what the bundle was exported from")
    p.add_argument(
        "--backend", choices=list(BACKENDS), default=DEFAULT, help="default: %(default)s"
    )
    add_slices_option(p)
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="F.json",
        help="default: BUNDLE/certificate-BACKEND.json",
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command: the certificate goes to its file and to stdout."""
    args = parser().parse_args(arguments)
    check_slices(args.slices)
    bundle = open_bundle(args.bundle)
    path = args.output or bundle.path / f"certificate-{args.backend}.json"
    check_destination(path)  # before minutes of work, or hours of a large network's
    certificate = verify(bundle, reference_for(bundle, args.checkpoint), args.backend, args.slices)
    try:
        write(certificate, path)
    finally:  # also where the disk is full by now
        print_result(certificate, indent=1)
    if not certificate["passed"]:
        raise Mismatch(f"{bundle.path} does not compute what its checkpoint does; see {path}")
