"""`python -m export.verify`: does a bundle compute what the torch model computes? The answer is a certificate.

Graph by graph, on the tensors of real runs, then end to end over propagations, where errors feed back through
memory. Errors and tolerances are relative to the largest magnitude of the tensor they judge.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
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
from runtime.backends import BACKENDS, Buffer
from runtime.bundle import Bundle, open_bundle
from runtime.command import run_command
from runtime.contract import GRAPHS
from runtime.errors import CheckpointError, Sam2Error
from runtime.machine import machine_name
from runtime.model import Model
from runtime.phantom import Phantom, make_phantom
from runtime.prompts import Prompt

GRAPH_TOLERANCE = 1e-4  # one pass through one graph in fp32
LOGIT_TOLERANCE = (
    1e-3  # a whole propagation: memories are rounded to bf16, which magnifies the last bit
)
DEFAULT_SLICES = 24
CALLS_KEPT = 4  # of each graph, with different shapes or prompts

Call = tuple[dict[str, Buffer], dict[str, Buffer]]
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


def compare_graph(model: Model, graph: str, calls: Sequence[Call]) -> dict[str, Any]:
    """The worst comparison of each output over recorded calls of the reference."""
    worst: dict[str, Any] = {}
    for inputs, outputs in calls:
        for name, found in model.run(graph, inputs).items():
            result = compare_tensors(found, outputs[name], GRAPH_TOLERANCE)
            if name not in worst or result["relative_error"] > worst[name]["relative_error"]:
                worst[name] = result
    return worst


def compare_tracks(found: Track, truth: Track) -> dict[str, Any]:
    """Logits, scores and masks of a whole propagation, slice by slice."""
    error, dice, first = 0.0, 1.0, None
    for key, true in truth.items():
        a, b = found[key].segmented, true.segmented
        result = compare_tensors(a.logits, b.logits, LOGIT_TOLERANCE)
        error = max(error, result["relative_error"])
        dice = min(dice, _dice(a.logits > 0, b.logits > 0))
        if first is None and (
            what := _decision(a.object_score, b.object_score, a.logits, b.logits)
        ):
            first = {"object": key[0], "slice": key[1], "what": what}
    return {
        "slices": len(truth),
        "worst_relative_error": error,
        "tolerance": LOGIT_TOLERANCE,
        "lowest_dice": dice,
        "first_different_decision": first,
        "passed": error <= LOGIT_TOLERANCE and first is None,
    }


def _dice(a: Buffer, b: Buffer) -> float:
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def _decision(score: float, true_score: float, logits: Buffer, true_logits: Buffer) -> str | None:
    """What was decided otherwise, pixels too close to zero to call aside."""
    if (score > 0) != (true_score > 0):
        return f"object present: score {score:.6g}, reference {true_score:.6g}"
    differ = (logits > 0) != (true_logits > 0)
    clear = np.abs(true_logits) > LOGIT_TOLERANCE * np.abs(true_logits).max()
    count = int((differ & clear).sum())
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
    calls: dict[str, list[Call]] = {graph: [] for graph in GRAPHS}

    def record(
        graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], ms: float
    ) -> None:
        call = ({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in outputs.items()})
        if len(calls[graph]) < CALLS_KEPT and all(_differ(call, kept) for kept in calls[graph]):
            calls[graph].append(call)

    size = bundle.model.image_size
    phantom = make_phantom((num_slices, size, size))
    todo = tasks(phantom)
    steps = 2 * num_slices * sum(len(prompts) for prompts in todo.values())
    reference = torch_model(torch_reference)
    candidate = load(bundle, backend)
    tracks: list[dict[str, Track]] = []
    with tqdm(total=steps, desc="verify", unit="slice", file=sys.stderr) as bar:
        for model in (reference.observed(record), candidate):
            predictor = VolumePredictor(model)
            predictor.set_volume(phantom.pixels)
            tracks.append({name: run_task(predictor, p, bar.update) for name, p in todo.items()})
    truth, found = tracks
    graphs = {graph: compare_graph(candidate, graph, calls[graph]) for graph in GRAPHS}
    propagation = {name: compare_tracks(found[name], truth[name]) for name in todo}
    checks = [tensor for outputs in graphs.values() for tensor in outputs.values()]
    return {
        "passed": all(check["passed"] for check in (*checks, *propagation.values())),
        "bundle": bundle.path.name,
        "model": bundle.model.name,
        "image_size": size,
        "weights": bundle.weights,
        "backend": candidate.backend.description,
        "reference": reference.backend.description,
        "machine": machine_name(),
        "graphs": graphs,
        "propagation": propagation,
    }


def _differ(call: Call, other: Call) -> bool:
    """Whether two calls exercise different shapes or flags."""
    return any(
        a.shape != b.shape or (a.dtype == bool and not np.array_equal(a, b))
        for a, b in ((call[0][name], other[0][name]) for name in call[0])
    )


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
