"""`medsam2 calibrate`: what a bundle's confidence is worth, measured on labelled volumes.

Each object is prompted with a box on its middle slice and followed; on every other slice where the network says that
it is there, what it says of its mask is compared with the true overlap. A monotone map of the one to the other goes
into the bundle's manifest, and from then on every confidence (and every policy that goes by it) is the mapped one.
With `--defaults` it is measured instead which memory and stop rule suit the network (`export.choose`), and these go
into the manifest with their figures.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process.run import run_command

    run_command("export.calibrate")

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.choose import MIN_OBJECTS, choose, num_runs, summary, try_all
from export.labelled import Case, LabelledVolume, draw_prompt, labelled_volumes, some_cases
from runtime import Model, VolumePredictor, load
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.confidence import EDGE, MEASURES, Calibration
from runtime.bundle.manifest import MANIFEST, read_manifest
from runtime.errors import BundleChanged, InputError
from runtime.files.atomic import check_destination, write_whole
from runtime.files.atomic_folder import locked
from runtime.process.counted import counted
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

MIN_MASKS = 20  # fewer say nothing
TEMPERATURES = (0.05, 20.0)

EXAMPLES = """examples:
  medsam2 calibrate medsam2 --folder labelled/
  medsam2 calibrate medsam2 --folder labelled/ --measure foreground --method temperature
  medsam2 calibrate medsam2 --method none         # take the calibration out again
  medsam2 calibrate medsam2 --folder labelled/ --defaults     # choose memory and stop rule; calibrate before
  medsam2 calibrate medsam2 --method none --defaults          # take these out again
phantoms to calibrate on, where there are no labelled volumes: python -m benchmarks phantoms
"""

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Values of a measure and true overlaps (IoU), as many of each."""


def collect(
    model: Model,
    cases: Iterable[Case],
    measure: str,
    window: str,
    on_slice: Callable[[], object] = lambda: None,
) -> Pairs:
    """What a measure says of every tracked mask, and what each was worth."""
    said, worth = [], []
    for case in cases:
        predictor = VolumePredictor(model.plain())
        predictor.set_volume(case.volume, window)
        predictor.add(draw_prompt("box", case.truth, case.key))
        for slice_mask in predictor.stream():
            segmented = slice_mask.segmented
            if slice_mask.memory_frames and segmented.object_score > 0:
                said.append(MEASURES[measure](segmented.logits, segmented.iou))
                worth.append(iou(slice_mask.mask(), case.truth[slice_mask.slice]))
            on_slice()
    return np.array(said), np.array(worth)


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Overlap of two masks; 0 where there is nothing to overlap."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 0.0


def fit_isotonic(said: NDArray[np.float64], worth: NDArray[np.float64]) -> Calibration:
    """The ascending map of least squares: level within each of its steps, straight lines from step to step."""
    from scipy.optimize import isotonic_regression

    values, which, counts = np.unique(said, return_inverse=True, return_counts=True)
    means = np.bincount(which, worth) / counts
    fitted = isotonic_regression(means, weights=counts)
    measured, levels = [], []
    for start, stop in zip(fitted.blocks[:-1], fitted.blocks[1:], strict=True):
        ends = sorted({int(start), int(stop) - 1})
        measured += [float(values[end]) for end in ends]
        levels += [min(max(float(fitted.x[end]), 0.0), 1.0) for end in ends]  # means are rounded
    return Calibration(knots=(tuple(measured), tuple(levels)))


def fit_temperature(said: NDArray[np.float64], worth: NDArray[np.float64]) -> Calibration:
    """The temperature of least cross entropy against the overlap."""
    from scipy.optimize import minimize_scalar

    logits = np.log(said.clip(EDGE, 1 - EDGE) / (1 - said.clip(EDGE, 1 - EDGE)))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - worth * scaled).mean())

    optimum = minimize_scalar(cross_entropy, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return Calibration(temperature=float(np.exp(optimum.x)))


FITS = {"isotonic": fit_isotonic, "temperature": fit_temperature}


def write_calibration(
    bundle: Path, measure: str, calibration: Calibration | None, measured: Bundle | None = None
) -> None:
    """Put a calibration into a bundle's manifest, or take it out; the rest is as for `write_entry`."""

    def changed(before: dict[str, Any]) -> dict[str, Any]:
        others = {k: v for k, v in before.items() if k != measure}
        return others if calibration is None else {**others, measure: calibration.entry()}

    write_entry(bundle, "calibration", changed, measured)


def write_entry(
    bundle: Path,
    name: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    measured: Bundle | None = None,
) -> None:
    """Change an entry of a bundle's manifest, in one step, while nobody else does.

    Args:
        bundle: its folder.
        name: of the entry.
        change: what is there, or nothing, to what shall be.
        measured: the bundle that this was measured with, as it was opened then; None where nothing was.

    Raises BundleChanged where another one lies there by now: what was measured is not true of that.
    """
    with locked(bundle, is_patient=True):
        there = open_bundle(bundle)
        if measured is not None:
            _check_same(measured, there, name)
        entry = change(there.manifest.get(name, {}))
        text = json.dumps({**there.manifest, name: entry}, indent=1, allow_nan=False)
        write_whole(
            bundle / MANIFEST,
            lambda part: part.write_text(text + "\n", "utf-8"),
            check=lambda part: read_manifest(bundle, part.name),
        )


def _check_same(measured: Bundle, there: Bundle, name: str) -> None:
    is_other = measured.fingerprint != there.fingerprint
    # Stop rules go by confidence.
    if is_other or (name == "defaults" and measured.calibrations != there.calibrations):
        raise BundleChanged(
            f"{there.path} holds another {'network' if is_other else 'calibration'} than when measuring began; nothing "
            "was written: run the command again"
        )


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 calibrate", "Fit a bundle's confidence to labelled volumes.", EXAMPLES
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument(
        "--folder",
        type=Path,
        help="labelled volumes: .npz, NAME.nii.gz with NAME_label.nii.gz, or what medsam2 cohort export writes",
    )
    p.add_argument("--measure", default="iou", choices=list(MEASURES), help="default: %(default)s")
    p.add_argument(
        "--method", default="isotonic", choices=[*FITS, "none"], help="default: %(default)s"
    )
    p.add_argument(
        "--defaults",
        action="store_true",
        help="measure which memory and stop rule suit the network instead, and write them down",
    )
    p.add_argument(
        "--objects",
        type=parse_objects,
        metavar="N",
        help="of each volume at the most; default: all",
    )
    p.add_argument("--window", default="auto", help="as for medsam2 segment (%(default)s)")
    p.add_argument("--backend", default="auto")
    return p


def parse_objects(text: str) -> int:
    """A number of objects. Raises argparse's error."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found '{text}'; wanted a whole number from 1")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = parser()
    args = p.parse_args(arguments)
    if args.defaults:
        print_result(choose_defaults(p, args))
        return
    if args.method == "none":
        write_calibration(args.bundle, args.measure, None)
        print_result({"bundle": str(args.bundle), "measure": args.measure, "calibration": None})
        return
    if args.folder is None:
        p.error("wanted --folder with labelled volumes")
    import_module("scipy.optimize")  # what is missing is told before the work, not after it
    bundle = _opened(args.bundle)
    volumes = labelled_volumes(args.folder)
    depths = read_once(volumes, args.objects)
    _check_masks(args, sum(depth - 1 for depth in depths))  # all but the prompted ones
    model = load(bundle, args.backend)
    with tqdm(total=sum(depths), desc="calibrate", unit="slice", file=sys.stderr) as bar:
        cases = some_cases(volumes, args.objects)
        said, worth = collect(model, cases, args.measure, args.window, bar.update)
    _check_masks(args, len(said))
    calibration = FITS[args.method](said, worth)
    write_calibration(args.bundle, args.measure, calibration, bundle)
    print_result(_report(args, calibration, said, worth))


def choose_defaults(p: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """What `--defaults` does; returns its report."""
    if args.method == "none":
        write_entry(args.bundle, "defaults", lambda before: {})
        return {"bundle": str(args.bundle), "defaults": None}
    if args.folder is None:
        p.error("wanted --folder with labelled volumes")
    bundle = _opened(args.bundle)
    volumes = labelled_volumes(args.folder)
    num_objects = len(read_once(volumes, args.objects))
    if num_objects < MIN_OBJECTS:
        raise InputError(
            f"{args.folder} holds {counted(num_objects, 'object')} to choose by; wanted at least {MIN_OBJECTS}: add "
            "volumes"
        )
    model = load(bundle, args.backend)
    with tqdm(total=num_runs(num_objects), desc="calibrate", unit="run", file=sys.stderr) as bar:
        cases = some_cases(volumes, args.objects)
        trials = try_all(model.plain(), cases, args.window, bar.update)
    defaults = choose(trials)
    write_entry(args.bundle, "defaults", lambda before: defaults.entry(), bundle)
    return {"bundle": str(args.bundle), "defaults": defaults.entry(), "tried": summary(trials)}


def read_once(volumes: Sequence[LabelledVolume], count: int | None) -> list[int]:
    """The slices of the volume of each object, of `count` in each volume at the most.

    So it is known how much there is to do, and a volume that cannot be read is told before hours of work, not after.
    """
    with tqdm(volumes, desc="read", unit="volume", file=sys.stderr) as bar:
        return [len(case.truth) for volume in bar for case in some_cases([volume], count)]


def _check_masks(args: argparse.Namespace, count: int) -> None:
    """Raise InputError for too few masks to learn from."""
    if count < MIN_MASKS:
        raise InputError(
            f"{args.folder} gave {counted(count, 'mask')} to learn from; wanted at least {MIN_MASKS}: add volumes"
        )


def _opened(path: Path) -> Bundle:
    """A bundle whose manifest may be written, which is told before the work, not after it."""
    bundle = open_bundle(path)
    check_destination(path / MANIFEST)
    return bundle


def _report(
    args: argparse.Namespace,
    calibration: Calibration,
    said: NDArray[np.float64],
    worth: NDArray[np.float64],
) -> dict[str, Any]:
    mapped = np.array([calibration(float(value)) for value in said])
    return {
        "bundle": str(args.bundle),
        "measure": args.measure,
        "method": args.method,
        "masks": len(said),
        "mean_error_before": round(float(np.abs(said - worth).mean()), 4),
        "mean_error_after": round(float(np.abs(mapped - worth).mean()), 4),
        "bias_before": round(float((said - worth).mean()), 4),
        "bias_after": round(float((mapped - worth).mean()), 4),
    }
