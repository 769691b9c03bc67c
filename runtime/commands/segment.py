"""`medsam2 segment`: a study, a set of images or a video, from prompts to masks."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from runtime.commands.options import add_model_options, parse_path
from runtime.commands.segment_options import (
    add_dicom_options,
    add_memory_options,
    add_sight_options,
    add_stop_options,
    add_volume_options,
    check_stop,
    is_dicom_told,
    job_options,
)
from runtime.errors import InputError, PromptError
from runtime.io.dicom.query import parse_choice
from runtime.io.window import CT_PRESETS
from runtime.io.write import STRUCTURES_SUFFIX
from runtime.jobs import KINDS, Job, kind_of, segment_images, segment_video, segment_volume
from runtime.predictors.chosen import AUTO
from runtime.predictors.flow import ORDERS
from runtime.predictors.orientations import FUSIONS
from runtime.predictors.presets import PRESETS
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser
from runtime.prompts.label_map import LABELS_AS
from runtime.prompts.prompt_file import (
    PromptFile,
    group,
    parse_box,
    parse_point,
    read_prompts,
)
from runtime.prompts.recist import parse_recist

SEGMENT = {"volume": segment_volume, "images": segment_images, "video": segment_video}
ONLY = dict.fromkeys(
    (
        "z_range",
        "series",
        "affine",
        "preset",
        "track_every",
        "fuse",
        "clean",
        "recist",
        "labels",
    ),
    "volume",
)

EXAMPLES = f"""examples:
  medsam2 segment -i ct.nii.gz -o lesion.nii.gz --box 57,200,260,180,250 --preview lesion.png
  medsam2 segment -i ct.nii.gz -o lesion.nii.gz --recist 57,214,188,246,240
  medsam2 segment -i series/ -o liver.nrrd --point 40,210,180 --point 40,300,180,- --window abdomen
  medsam2 segment -i series/ -o lesion.dcm --box 57,200,260,180,250 --code SCT:108369006:Neoplasm
  medsam2 segment -i series/ -o two.dcm --box 57,200,260,180,250 --box 60,90,160,300,380 --code 2=SCT:10200004:Liver
  medsam2 segment -i series/ -o lesion.rtstruct.dcm --box 57,200,260,180,250       # an RT Structure Set
  medsam2 segment -i mr.mha -o mask.mha --prompts prompts.json --z-range 20,60 --memory confidence
  medsam2 segment -i fundus_images/ -o masks/ --box 0,310,420,500,610 --memory self_sorting --order similar
  medsam2 segment -i echo.mp4 -o frames/ --point 0,120,200

coordinates are voxel indices, z first; boxes and ranges are half-open: 200,260 holds 200 to 259. of a set of images
or a video, z is the number of the image (in the order of names) or frame, from 0; masks are label images in a folder.
windows: auto, none (8-bit already), percentile (MR), {", ".join(CT_PRESETS)}, or LEVEL/WIDTH such as 40/400.
memory: fifo is SAM 2's own; confidence and self_sorting keep doubtful slices out (MedSAM-2); with _and_latest the slice
before stays whatever it is worth, unless it looks like none of the others.
prompts.json:
  {{"objects": [{{"id": 1, "prompts": [
    {{"slice": 57, "box": {{"y": [200, 260], "x": [180, 250]}}}},
    {{"slice": 57, "point": {{"y": 231, "x": 214}}, "positive": false}},
    {{"slice": 80, "mask": "lesion_z80.png"}}]}}]}}
  an object may have a "code" and a "category", SCHEME:VALUE:MEANING, beside its id.
exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 bad bundle, 5 no such back end here, 6 out of memory,
130 interrupted. The report, one line of JSON (docs/report.md), is the only thing on stdout.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 segment",
        "Segment a volume, a set of images or a video from prompts on some of its slices.",
        EXAMPLES,
    )
    add = p.add_argument
    add(
        "-i",
        "--input",
        required=True,
        type=parse_path,
        metavar="INPUT",
        help="NIfTI, NRRD, MetaImage, npz, DICOM folder; an image or a folder of them; a video",
    )
    add(
        "-o",
        "--output",
        required=True,
        type=parse_path,
        metavar="MASK",
        help=".nii.gz, .nii, .nrrd or .mha; .dcm or .rtstruct.dcm, of DICOM; of images, a folder",
    )
    add(
        "--as",
        dest="kind",
        default="auto",
        choices=["auto", *KINDS],
        help="what the input is (%(default)s)",
    )
    add("--box", action="append", default=[], metavar="Z,Y0,Y1,X0,X1", help="each box is an object")
    add(
        "--point",
        action="append",
        default=[],
        metavar="Z,Y,X[,-]",
        help="of one object, '-' for a point outside it; with one --box, they correct it",
    )
    add(
        "--recist",
        action="append",
        metavar="Z,Y0,X0,Y1,X1",
        help="of volumes: the ends of a lesion's longest diameter; each line is an object",
    )
    add(
        "--prompts",
        metavar="P.json",
        help="several objects, slices and kinds of prompts; - for stdin",
    )
    add(
        "--labels",
        metavar="L",
        type=Path,
        help="of volumes: a label map or DICOM Segmentation, whose objects are asked for again",
    )
    add("--labels-as", choices=list(LABELS_AS), help="how (box)")
    add("--preview", metavar="P.png", type=Path, help="also draw contours on some slices")
    add(
        "--report-memory",
        action="store_true",
        help="also report what was in memory on each slice",
    )
    add_sight_options(p)
    add_model_options(p)
    add_memory_options(p)
    add_stop_options(p, "volumes and videos")
    volumes = add_volume_options(p)
    volumes("--z-range", metavar="Z0,Z1", help="stay within these slices, half-open")
    volumes("--preset", choices=list(PRESETS), help="as one of MedSAM2's scripts does")
    volumes("--fuse", choices=list(FUSIONS), help="segment along all three axes and fuse")
    add_dicom_options(p)
    images = p.add_argument_group("images").add_argument
    images("--order", default="given", choices=ORDERS, help="in which to segment (%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = parser()
    args = p.parse_args(arguments)
    if not (args.box or args.point or args.prompts or args.recist or args.labels):
        p.error("no prompt: give --box, --point, --recist, --prompts or --labels")
    if args.labels_as and not args.labels:
        p.error("--labels-as says how --labels are taken: give that too")
    source = Path(args.input)
    kind = kind_of(source) if args.kind == "auto" else args.kind
    _check(p, args, kind)
    asked = _asked(args)
    job = Job(
        input=source,
        output=Path(args.output),
        calls=asked.calls,
        lines=tuple(enumerate(map(parse_recist, args.recist or ()), 1)),
        labels=args.labels,
        prompt_files=asked.files,
        preview=args.preview,
        bundle=args.bundle,
        series=parse_choice(args.series),
        z_range=_z_range(args.z_range),
        preset=args.preset,
        fuse=args.fuse,
        order=args.order,
        reports_memory=args.report_memory,
        **job_options(args),
    )
    print_result(SEGMENT[kind](_named(job, asked)))


def _check(p: argparse.ArgumentParser, args: argparse.Namespace, kind: str) -> None:
    """Leave with a usage error where options do not go together, or not with such an input."""
    for name, owner in ONLY.items():
        if getattr(args, name) is not None and kind != owner:
            p.error(f"--{name.replace('_', '-')} is for a {owner}; the input is taken as {kind}")
    if is_dicom_told(args) and not (kind == "volume" and args.output.lower().endswith(".dcm")):
        p.error("--code, --category, --seg-type and --keep-empty-frames are for a mask named .dcm")
    is_typed = args.category or args.seg_type or args.keep_empty_frames
    if is_typed and args.output.lower().endswith(STRUCTURES_SUFFIX):
        p.error(
            "--category, --seg-type and --keep-empty-frames are for segmentations, not structures"
        )
    if args.track_every is not None and (args.preset or args.fuse):
        p.error("--track-every leaves slices out, which no --preset does and --fuse needs")
    if args.order != "given" and kind != "images":
        p.error(f"--order is for images; the input is taken as {kind}")
    is_stop_chosen = args.stop_below != AUTO or args.stop_after is not None
    if is_stop_chosen and kind == "images":
        p.error("--stop-below and --stop-after are for volumes and videos: images have no order")
    check_stop(p, args)


def _named(job: Job, asked: PromptFile) -> Job:
    """The job with the codes of its file of prompts. Raises InputError for a code of an object that there is not."""
    if job.labels is None:
        told = {*job.segmentation.codes, *job.segmentation.categories}
        there = {object_id for object_id, _ in (*job.calls, *job.lines)}
        if unknown := told - there:
            raise InputError(
                f"found a code of object {min(unknown)}; there are {', '.join(map(str, sorted(there)))}"
            )
    return replace(job, segmentation=job.segmentation.naming(asked.codes, asked.categories))


def _asked(args: argparse.Namespace) -> PromptFile:
    boxes = [parse_box(text) for text in args.box]
    points = [parse_point(text) for text in args.point]
    if args.recist and (args.prompts or boxes or points):
        raise PromptError("each --recist is an object of its own; do not mix it with other prompts")
    if args.labels and (args.prompts or boxes or points or args.recist):
        raise PromptError("--labels holds every object; do not mix it with other prompts")
    if args.recist or args.labels:
        return PromptFile([])
    if args.prompts:
        if boxes or points:
            raise PromptError("--prompts holds everything; do not mix it with --box and --point")
        return read_prompts(args.prompts)
    if len(boxes) > 1 and points:
        raise PromptError(
            "points with several boxes: say which object each belongs to in a --prompts file"
        )
    if len(boxes) > 1:
        return PromptFile([(object_id, [box]) for object_id, box in enumerate(boxes, 1)])
    return PromptFile(group([*boxes, *points], object_id=1))


def _z_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        start, stop = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"found the z-range '{text}'; wanted Z0,Z1 such as 20,60") from error
    return start, stop
