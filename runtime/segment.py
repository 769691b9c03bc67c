"""`python -m runtime.segment`: one study, from prompts to a mask file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.backends import BACKENDS
from runtime.command import run_command
from runtime.errors import InputError, MissingInput, PromptError
from runtime.io import Volume, check_mask_path, read_volume, write_mask
from runtime.model import Model, load
from runtime.predictors import VolumePredictor
from runtime.predictors.volume import check_z_range
from runtime.preview import draw_preview, write_preview
from runtime.prompt_file import Calls, group, parse_box, parse_point, read_prompts
from runtime.prompts import Prompt, check_prompt
from runtime.result import Result, SliceMask
from runtime.window import CT_PRESETS, Window, apply_window, parse_window

PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg")

EXAMPLES = f"""examples:
  python -m runtime.segment -i ct.nii.gz -o lesion.nii.gz --box 57,200,260,180,250 --preview lesion.png
  python -m runtime.segment -i series/ -o liver.nrrd --point 40,210,180 --point 40,300,180,- --window abdomen
  python -m runtime.segment -i mr.mha -o mask.mha --prompts prompts.json --z-range 20,60

coordinates are voxel indices, z first; boxes and ranges are half-open: 200,260 holds 200 to 259.
windows: auto, none (8-bit already), percentile (MR), {", ".join(CT_PRESETS)}, or LEVEL/WIDTH such as 40/400.
prompts.json:
  {{"objects": [{{"id": 1, "prompts": [
    {{"slice": 57, "box": {{"y": [200, 260], "x": [180, 250]}}}},
    {{"slice": 57, "point": {{"y": 231, "x": 214}}, "positive": false}},
    {{"slice": 80, "mask": "lesion_z80.png"}}]}}]}}
exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 bad bundle, 5 no such back end here, 6 out of memory,
130 interrupted. The result as JSON is the only thing on stdout.
"""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything read and checked before any computing starts."""

    volume: Volume
    pixels: np.ndarray
    window: Window
    calls: Calls

    @property
    def prompts(self) -> dict[int, list[Prompt]]:
        """Object id to all its prompts."""
        by_object: dict[int, list[Prompt]] = {}
        for object_id, prompts in self.calls:
            by_object.setdefault(object_id, []).extend(prompts)
        return by_object


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.segment",
        description="Segment a volume from prompts on some of its slices.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="VOLUME",
        help="NIfTI, NRRD, MetaImage, npz, DICOM folder",
    )
    p.add_argument(
        "-o", "--output", required=True, metavar="MASK", help=".nii.gz, .nii, .nrrd or .mha"
    )
    p.add_argument(
        "--box", action="append", default=[], metavar="Z,Y0,Y1,X0,X1", help="each box is an object"
    )
    p.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="Z,Y,X[,-]",
        help="of one object, '-' for a point outside it; with one --box, they correct it",
    )
    p.add_argument(
        "--prompts", metavar="P.json", help="several objects, slices and kinds of prompts"
    )
    p.add_argument(
        "--preview", metavar="P.png", type=Path, help="also draw contours on some slices"
    )
    p.add_argument("--window", default="auto", help="how intensities become 8 bits (%(default)s)")
    p.add_argument("--z-range", metavar="Z0,Z1", help="stay within these slices, half-open")
    p.add_argument("--series", metavar="UID", help="which series of a DICOM folder")
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    p.add_argument("--threads", type=int, metavar="N", help="default: one for each core")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = parser()
    args = p.parse_args(arguments)
    if not (args.box or args.point or args.prompts):
        p.error("no prompt: give --box, --point or --prompts")
    if check_mask_path(args.output).resolve() == Path(args.input).resolve():
        raise InputError(f"{args.output} is the input itself; name another file for the mask")
    _check_preview(args.preview)
    study = _read(args)
    z_range = _z_range(args.z_range, study.volume.shape[0])
    model = load(args.bundle, args.backend, args.threads)
    started = time.perf_counter()
    result, first_mask_s = _segment(model, study, z_range)
    seconds = time.perf_counter() - started
    picture = None
    if args.preview:  # drawn before anything is written: what fails leaves nothing behind
        spacing_yx_mm = study.volume.spacing_mm[1:]
        title = f"{Path(args.input).name}  {model.numbers.name}  window {study.window.describe}"
        picture = draw_preview(study.pixels, result, study.prompts, spacing_yx_mm, title)
    write_mask(args.output, result, like=study.volume)
    if picture:
        write_preview(args.preview, picture)
    print(json.dumps(_report(args, model, study, result, seconds, first_mask_s)))


def _read(args: argparse.Namespace) -> Study:
    calls = _calls(args)
    window = parse_window(args.window)
    volume = read_volume(args.input, args.series)
    for _, prompts in calls:
        for prompt in prompts:
            check_prompt(prompt, volume.shape)
    pixels, used = apply_window(volume, window)
    return Study(volume, pixels, used, calls)


def _calls(args: argparse.Namespace) -> Calls:
    boxes = [parse_box(text) for text in args.box]
    points = [parse_point(text) for text in args.point]
    if args.prompts:
        if boxes or points:
            raise PromptError("--prompts holds everything; do not mix it with --box and --point")
        return read_prompts(args.prompts)
    if len(boxes) > 1 and points:
        raise PromptError(
            "points with several boxes: say which object each belongs to in a --prompts file"
        )
    if len(boxes) > 1:
        return [(object_id, [box]) for object_id, box in enumerate(boxes, 1)]
    return group([*boxes, *points], object_id=1)


def _z_range(text: str | None, num_slices: int) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        start, stop = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"found the z-range '{text}'; wanted Z0,Z1 such as 20,60") from error
    check_z_range((start, stop), num_slices)
    return start, stop


def _check_preview(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in PREVIEW_SUFFIXES:
        raise InputError(
            f"{path} has no suffix a preview is written as; wanted {', '.join(PREVIEW_SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise MissingInput(f"{path.parent} is not a folder; make it before writing {path.name}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; wanted the name of a file")


def _segment(model: Model, study: Study, z_range: tuple[int, int] | None) -> tuple[Result, float]:
    """The result, and seconds until the first mask."""
    predictor = VolumePredictor(model)
    predictor.set_volume(study.pixels, "none")
    started = time.perf_counter()
    first_mask_s = 0.0
    for object_id, prompts in study.calls:
        predictor.add(*prompts, object_id=object_id)
        first_mask_s = first_mask_s or time.perf_counter() - started
    slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id, _ in study.calls}
    total = predictor.num_results(z_range)
    with tqdm(total=total, desc="segment", unit="slice", file=sys.stderr) as bar:
        for found in predictor.stream(z_range):
            slices[found.object_id][found.slice] = found
            bar.update()
    depth, *shape = study.volume.shape
    return Result(((shape[0], shape[1]),) * depth, slices), first_mask_s


def _report(
    args: argparse.Namespace,
    model: Model,
    study: Study,
    result: Result,
    seconds: float,
    first_mask_s: float,
) -> dict[str, Any]:
    voxel_ml = float(np.prod(study.volume.spacing_mm)) / 1000
    objects = []
    for object_id in result.object_ids:
        mask = result.mask(object_id)
        present = np.flatnonzero(mask.any((1, 2)))
        confidence = result.confidence_of(object_id)
        seen = np.flatnonzero(~np.isnan(confidence))
        objects.append(
            {
                "id": object_id,
                "voxels": int(mask.sum()),
                "volume_ml": round(int(mask.sum()) * voxel_ml, 3),
                "z": [int(present[0]), int(present[-1]) + 1] if len(present) else None,
                "confidence": {int(index): round(float(confidence[index]), 3) for index in seen},
            }
        )
    return {
        "mask": args.output,
        "preview": str(args.preview) if args.preview else None,
        "model": model.numbers.name,
        "backend": model.backend.description,
        "window": study.window.describe,
        "shape": list(study.volume.shape),
        "objects": objects,
        "seconds": round(seconds, 3),
        "first_mask_seconds": round(first_mask_s, 3),
    }


if __name__ == "__main__":
    run_command(main)
