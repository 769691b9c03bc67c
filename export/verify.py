"""`python -m export.verify`: does a bundle compute what the torch model computes? The answer is a certificate.

Twice over the same propagations. First in lockstep: every run of every graph gets the reference's own tensors, so that
each error is one graph's and none is magnified; these are what the certificate rests on. Then freely, where errors feed
back through memory and one pixel of a binarised mask that falls on the other side of zero is magnified from slice to
slice; there the decisions and masks must be the reference's. Errors and tolerances are relative to the largest
magnitude of the tensor they judge.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from export.checkpoint import load_model, read_checkpoint
from export.model.sam2 import Sam2
from export.random_weights import fingerprint, random_state
from export.torch_backend import torch_model
from export.variants import VARIANTS
from runtime import Mask, Point, SliceMask, VolumePredictor, load
from runtime.backends import BACKENDS, DEFAULT, Buffer
from runtime.bundle import Bundle, open_bundle
from runtime.command import run_command
from runtime.contract import GRAPHS
from runtime.errors import CheckpointError, Sam2Error
from runtime.machine import machine_name
from runtime.model import Model
from runtime.phantom import Phantom, make_phantom
from runtime.prompts import Prompt

LOGIT_TOLERANCE = (
    1e-3  # nearer to zero than this share of the largest logit, a pixel is too close to call
)
DEFAULT_SLICES = 24


@dataclass(frozen=True, slots=True)
class Bar:
    """What a precision has to reach.

    Attributes:
        tolerance: of one pass through one graph.
        lowest_dice: of any mask of a free propagation.
        decides_alike: no decision of a free propagation may differ.
    """

    tolerance: float
    lowest_dice: float
    decides_alike: bool


BARS = {"fp32": Bar(1e-4, 0.999, True), "bf16": Bar(3e-2, 0.99, False)}

Track = dict[tuple[int, int], SliceMask]
"""(object, slice) to its mask."""
Progress = Callable[[], object]

EXAMPLES = """examples:
  python -m export.verify medsam2 --checkpoint MedSAM2_latest.pt
  python -m export.verify random512                        # a bundle of random weights knows its seed
"""


class Mismatch(Sam2Error):
    """A bundle that does not compute what its checkpoint says."""


def tasks(phantom: Phantom) -> dict[str, dict[int, Sequence[Prompt]]]:
    """Prompts by object for each propagation, all on the middle slice: every way into the model."""
    middle = len(phantom.pixels) // 2
    first, second = phantom.box(middle, 1), phantom.box(middle, 2)
    inside = Point(slice=middle, y=sum(first.y) / 2, x=sum(first.x) / 2)
    outside = Point(slice=middle, y=sum(second.y) / 2, x=sum(second.x) / 2, positive=False)
    return {
        "click": {1: [inside]},
        "two boxes, clicks": {1: [first, inside, outside], 2: [second]},
        "mask": {1: [Mask(slice=middle, mask=phantom.labels[middle] == 1)]},
    }


def run_task(
    predictor: VolumePredictor, prompts: Mapping[int, Sequence[Prompt]], progress: Progress
) -> Track:
    """One propagation in both directions."""
    predictor.reset()
    for object_id, given in prompts.items():
        predictor.add(*given, object_id=object_id)
    track: Track = {}
    for found in predictor.stream():
        track[found.object_id, found.slice] = found
        progress()
    return track


def compare_tensors(found: Buffer, truth: Buffer, tolerance: float) -> dict[str, Any]:
    """Largest error of a tensor, the tolerance that would have passed it, and whether the one given did."""
    magnitude = float(np.abs(truth).max())
    if truth.ndim == 1:  # scores: where all are near zero, that is nothing to be relative to
        magnitude = max(magnitude, 1.0)
    error = float(np.abs(found.astype(np.float64) - truth).max())
    relative = error / magnitude if magnitude else error
    return {
        "max_abs_error": error,
        "largest_magnitude": magnitude,
        "relative_error": relative,
        "tolerance": tolerance,
        "passed": relative <= tolerance,
    }


class Lockstep:
    """Runs a candidate on every call of an observed reference and keeps the worst comparison of each output."""

    def __init__(self, candidate: Model, tolerance: float) -> None:
        self._candidate, self._tolerance = candidate, tolerance
        self.graphs: dict[str, dict[str, Any]] = {graph: {} for graph in GRAPHS}

    def __call__(
        self,
        graph: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        latency_ms: float,
    ) -> None:
        worst = self.graphs[graph]
        for name, found in self._candidate.run(graph, dict(inputs)).items():
            result = compare_tensors(found, outputs[name], self._tolerance)
            runs = worst[name]["runs"] + 1 if name in worst else 1
            if name not in worst or result["relative_error"] > worst[name]["relative_error"]:
                worst[name] = result
            worst[name]["runs"] = runs


def compare_tracks(found: Track, truth: Track, bar: Bar) -> dict[str, Any]:
    """Logits, scores and masks of a whole propagation, slice by slice."""
    error, dice, first = 0.0, 1.0, None
    for key, true in truth.items():
        a, b = found[key].segmented, true.segmented
        result = compare_tensors(a.logits, b.logits, LOGIT_TOLERANCE)
        error = max(error, result["relative_error"])
        called = np.where(_is_clear(b.logits), a.logits > 0, b.logits > 0)
        dice = min(dice, _dice(called, b.logits > 0))
        if first is None and (
            what := _decision(a.object_score, b.object_score, a.logits, b.logits)
        ):
            first = {"object": key[0], "slice": key[1], "what": what}
    return {
        "slices": len(truth),
        "worst_relative_error": error,
        "lowest_dice": dice,
        "lowest_dice_wanted": bar.lowest_dice,
        "first_different_decision": first,
        "passed": dice >= bar.lowest_dice and (first is None or not bar.decides_alike),
    }


def _dice(a: Buffer, b: Buffer) -> float:
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def _decision(score: float, true_score: float, logits: Buffer, true_logits: Buffer) -> str | None:
    """What was decided otherwise, pixels too close to zero to call aside."""
    if (score > 0) != (true_score > 0):
        return f"object present: score {score:.6g}, reference {true_score:.6g}"
    differ = (logits > 0) != (true_logits > 0)
    count = int((differ & _is_clear(true_logits)).sum())
    return f"{count} pixels on the other side of zero" if count else None


def verify(
    bundle: Bundle, torch_reference: Sam2, backend: str, num_slices: int = DEFAULT_SLICES
) -> dict[str, Any]:
    """Compare and certify.

    Args:
        bundle: what to verify.
        torch_reference: the model it was exported from, weights loaded.
        backend: where the bundle runs.
        num_slices: of each propagation.

    Returns the certificate as JSON-able data; `passed` is its verdict.
    """
    precision = precision_of(backend)
    bar_to_reach = BARS[precision]
    size = bundle.model.image_size
    phantom = make_phantom((num_slices, size, size))
    todo = tasks(phantom)
    steps = 2 * num_slices * sum(len(prompts) for prompts in todo.values())
    reference = torch_model(torch_reference)
    candidate = load(bundle, backend)
    lockstep = Lockstep(candidate, bar_to_reach.tolerance)
    tracks: list[dict[str, Track]] = []
    with tqdm(total=steps, desc="verify", unit="slice", file=sys.stderr) as bar:
        for model in (reference.observed(lockstep), candidate):
            predictor = VolumePredictor(model)
            predictor.set_volume(phantom.pixels)
            tracks.append({name: run_task(predictor, p, bar.update) for name, p in todo.items()})
    truth, found = tracks
    propagation = {name: compare_tracks(found[name], truth[name], bar_to_reach) for name in todo}
    checks = [tensor for outputs in lockstep.graphs.values() for tensor in outputs.values()]
    return {
        "passed": all(check["passed"] for check in (*checks, *propagation.values())),
        "bundle": bundle.path.name,
        "model": bundle.model.name,
        "image_size": size,
        "weights": bundle.weights,
        "backend": candidate.backend.description,
        "precision": precision,
        "reference": reference.backend.description,
        "machine": machine_name(),
        "graphs": lockstep.graphs,
        "propagation": propagation,
    }


def _is_clear(logits: Buffer) -> Buffer:
    magnitude = np.abs(logits)
    return magnitude > LOGIT_TOLERANCE * magnitude.max()


def precision_of(backend: str) -> str:
    """What a back end computes in, by the table of back ends."""
    row = BACKENDS[DEFAULT if backend == "auto" else backend]
    return str(row.options.get("precision", "fp32"))


def reference_for(bundle: Bundle, checkpoint: str | None) -> Sam2:
    """The torch model a bundle claims to be; CheckpointError if the checkpoint is another one."""
    size, weights = bundle.model.image_size, bundle.weights
    if checkpoint is None:
        if weights["kind"] != "random":
            raise CheckpointError(
                f"{bundle.path} was made from {weights['source']}; name it with --checkpoint"
            )
        model = Sam2(VARIANTS[bundle.model.name], size)
        state = random_state(model, weights["seed"])
        if fingerprint(state) != weights.get("sha256"):
            raise CheckpointError(
                f"{bundle.path} has random weights of another version of this exporter; export it again"
            )
        model.load_state_dict(state, strict=True)
        return model
    read = read_checkpoint(checkpoint, bundle.model.name)
    if read.sha256 != weights.get("sha256"):
        raise CheckpointError(
            f"{checkpoint} is not the file that {bundle.path} was made from (SHA-256 differs)"
        )
    return load_model(read, size)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m export.verify",
        description="Certify that a bundle computes what its checkpoint's torch model computes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("bundle", metavar="BUNDLE")
    p.add_argument("--checkpoint", metavar="F.pt", help="what the bundle was exported from")
    p.add_argument("--backend", choices=["auto", *BACKENDS], default="auto")
    p.add_argument(
        "--slices", type=int, default=DEFAULT_SLICES, help="of each propagation (%(default)s)"
    )
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
    bundle = open_bundle(args.bundle)
    certificate = verify(bundle, reference_for(bundle, args.checkpoint), args.backend, args.slices)
    path = args.output or bundle.path / f"certificate-{args.backend}.json"
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(certificate, indent=1) + "\n")
    part.replace(path)
    print(json.dumps(certificate, indent=1))
    if not certificate["passed"]:
        raise Mismatch(f"{bundle.path} does not compute what its checkpoint does; see {path}")


if __name__ == "__main__":
    run_command(main)
