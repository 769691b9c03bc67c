"""`medsam2 certify`: compare back ends with ONNX Runtime on this machine, so that "auto" may choose.

That the bundle itself computes what its checkpoint does is `medsam2 verify`'s to show; this needs no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from kernels.device import why_not
from runtime.backends import BACKENDS, DEFAULT
from runtime.backends.certificate import Certificate, choose, keep, stamp
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.errors import BackendUnavailable, InputError, Mismatch, NotFinite, Sam2Error
from runtime.files.cache import VARIABLE, cache_folder
from runtime.measure.latency import MOST_SLICES, bench_phantom, summarise, time_propagation
from runtime.measure.lockstep import error_of
from runtime.measure.parity import DEFAULT_SLICES, compare_models, criteria_of, num_steps
from runtime.measure.parting import OTHER_PHANTOMS, asked_again, parted_by_little
from runtime.measure.reference import remembered
from runtime.model import Model, load
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

QUICK_SLICES = 5
"""Of the tasks that are followed both ways: the graphs are the same, and a laptop is to be done in two minutes."""
TIMED_SLICES = 9  # three of them with a full memory
TIMED_PASSES = 2  # of each in turn; the better one counts, since a laptop has other things to do
NOT_KEPT = (
    "no certificate can be kept, so that auto will not know of it: this user has no cache folder with room that can be "
    f"written; name one in {VARIABLE}, or set it to nothing to see the figures alone"
)

EXAMPLES = """examples:
  medsam2 certify                                # every back end that is installed, for the embedded model
  medsam2 certify --bundle medsam2 --backend openvino-bf16

Certificates are kept for this user and machine. --backend auto, the default of every command, then takes the fastest
back end whose certificate holds.
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """ONNX Runtime in fp32, for one candidate after the other: as it is, to be timed, and `remembered`."""

    model: Model
    knows: Model

    @classmethod
    def of(cls, bundle: Bundle) -> Reference:
        """Open it."""
        model = load(bundle, DEFAULT)
        return cls(model, remembered(model))


def certify(
    bundle: Bundle,
    backend: str,
    num_slices: int = QUICK_SLICES,
    reference: Reference | None = None,
) -> Certificate:
    """Compare a back end with ONNX Runtime in fp32: what it computes, and how fast.

    Propagations that `parted_by_little` are asked again on other phantoms, until they pass or do worse.

    Raises BackendUnavailable if it cannot be opened here.
    """
    reference, candidate = reference or Reference.of(bundle), load(bundle, backend)
    compared = compare(bundle, backend, reference.knows, candidate, num_slices)
    latest = compared
    for seed in OTHER_PHANTOMS:
        if compared["passed"] or not parted_by_little(latest):
            break
        latest = compare(bundle, backend, reference.knows, candidate, num_slices, seed)
        compared = asked_again(compared, latest)
    return {**compared, **_speeds(candidate, reference.model)}


def compare(
    bundle: Bundle,
    backend: str,
    reference: Model,
    candidate: Model,
    num_slices: int,
    seed: int = 0,
) -> Certificate:
    """Hold a bundle on a back end, the candidate, against a reference of the same weights, on the phantom of a seed."""
    criteria = criteria_of(bundle, backend)
    with tqdm(
        total=num_steps(num_slices, reference), desc=backend, unit="slice", file=sys.stderr
    ) as progress:
        comparison = compare_models(
            reference, candidate, criteria, num_slices, progress.update, seed
        )
    return {
        **stamp(bundle, backend),
        "bundle": bundle.path.name,
        "model": bundle.model.name,
        "image_size": bundle.model.image_size,
        "description": candidate.backend.description,
        "reference": reference.backend.description,
        **comparison,
    }


def _speeds(candidate: Model, reference: Model) -> dict[str, float]:
    """What is told of speed; nothing where a graph gives NaN, since there is no propagation to time then."""
    try:
        passes = [(_latency_ms(candidate), _latency_ms(reference)) for _ in range(TIMED_PASSES)]
    except NotFinite:
        return {}
    latency_ms, reference_ms = (min(own) for own in zip(*passes, strict=True))
    return {
        "latency_ms": latency_ms,
        "reference_latency_ms": reference_ms,
        "times_reference": round(reference_ms / latency_ms, 3),
    }


def _latency_ms(model: Model) -> float:
    """Median of a tracked slice's time with a full memory; of a network without one, of an image's and a box."""
    num_slices = 3 if model.numbers.kind == "image" else TIMED_SLICES
    run = time_propagation(model, bench_phantom(num_slices, model.numbers.image_size), 1)
    return summarise([run], model.numbers.num_maskmem)["total"]["median"]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    others = [name for name in BACKENDS if name != DEFAULT]
    p = command_parser(
        "medsam2 certify", "Certify back ends for a bundle on this machine.", EXAMPLES
    )
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument(
        "--backend", action="append", choices=others, help="may be repeated; default: all there are"
    )
    add_slices_option(p, QUICK_SLICES)
    return p


def add_slices_option(p: argparse.ArgumentParser, default: int = DEFAULT_SLICES) -> None:
    """`--slices`, to be checked by `check_slices`."""
    p.add_argument(
        "--slices",
        type=int,
        default=default,
        help="that objects are followed over, both ways (%(default)s)",
    )


def check_slices(num_slices: int) -> None:
    """Raise InputError for a propagation too short to have both directions, or longer than any scan."""
    if not 3 <= num_slices <= MOST_SLICES:
        raise InputError(
            f"found --slices {num_slices}; wanted 3 or more, and {MOST_SLICES} at most"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command: a line for each back end, then everything as JSON."""
    args = parser().parse_args(arguments)
    check_slices(args.slices)
    bundle = open_bundle(args.bundle)
    usual = [name for name, row in BACKENDS.items() if name != DEFAULT and not row.is_fallback]
    if not args.backend and (reason := why_not()):
        usual = [name for name in usual if not BACKENDS[name].is_cuda]
        print(f"no CUDA device, so none of its back ends: {reason}", file=sys.stderr)
    wanted = args.backend or usual
    keeps = os.environ.get(VARIABLE) != ""
    if keeps and cache_folder("certificates") is None:
        print(f"warning: {NOT_KEPT}", file=sys.stderr)  # before minutes of work
    reference = Reference.of(bundle)  # has to be here
    certificates, num_lost = [], 0
    for name in wanted:
        try:
            certificate = certify(bundle, name, args.slices, reference)
        except BackendUnavailable as error:
            if args.backend:
                raise
            print(f"{name}: not here: {error}", file=sys.stderr)
            continue
        path = keep(certificate, bundle)
        num_lost += path is None
        certificates.append(certificate)
        print(
            f"{in_words(certificate)}; kept as {path}" if path else in_words(certificate),
            file=sys.stderr,
        )
    choice = choose(bundle)
    print(f"auto takes {choice.backend}: {choice.reason}", file=sys.stderr)
    report: dict[str, Any] = {
        "auto": choice.backend,
        "reason": choice.reason,
        "certificates": certificates,
    }
    print_result(report)
    failed = [c["backend"] for c in certificates if not c["passed"]]
    if args.backend and failed:
        raise Mismatch(
            f"{', '.join(failed)}: does not compute what {DEFAULT} does for {bundle.path}"
        )
    if keeps and num_lost:
        raise Sam2Error(NOT_KEPT)


def in_words(certificate: Certificate) -> str:
    """A certificate in one line."""
    dice = min(task["lowest_dice"] for task in certificate["propagation"].values())
    graphs = certificate["graphs"].values()
    error = max((error_of(output) for outputs in graphs for output in outputs.values()), default=0)
    reasons = (_why_failed(name, task) for name, task in certificate["propagation"].items())
    clauses = [
        f"{certificate['backend']}: {'passed' if certificate['passed'] else 'FAILED'}",
        *[reason for reason in [*certificate.get("faults", ()), *reasons] if reason][:1],
        f"largest error {error:.1e}, lowest Dice {dice:.4f}",
    ]
    if "latency_ms" in certificate:
        clauses.append(
            f"{certificate['latency_ms']:.1f} ms per slice, "
            f"{certificate['times_reference']:.2f} times as fast as {DEFAULT}"
        )
    return ", ".join(clauses)


def _why_failed(name: str, task: Mapping[str, Any]) -> str | None:
    """Why a propagation was not finished, or what was decided otherwise in one that failed."""
    if "reason" in task:
        return str(task["reason"])
    first = task.get("another_phantom", task).get("first_different_decision")
    if task["passed"] or first is None:
        return None
    return f"{name}: {first['what']}, object {first['object']}, slice {first['slice']}"
