"""`medsam2 cohort export`: labels that somebody has accepted, to train on or to keep."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from runtime.cohort.export import EXPORTS, LabelledStudy, labelled
from runtime.cohort.review import Review
from runtime.commands.segment_options import add_dicom_options, is_dicom_told, segmentation_of
from runtime.errors import InputError, Sam2Error
from runtime.files.atomic import check_folder
from runtime.io.dicom.seg import SegmentationOptions
from runtime.process.counted import counted
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

log = logging.getLogger("runtime")

DICOM = ("dicom-seg", "rtstruct")
EXAMPLES = """examples:
  medsam2 cohort export out/ -o labelled/                      # images/NAME.nii.gz and labels/NAME.nii.gz
  medsam2 cohort export out/ -o train/ --format npz            # as MedSAM2 trains on: imgs, gts, spacing
  medsam2 cohort export out/ -o segs/ --format dicom-seg --all
  medsam2 cohort export out/ -o segs/ --format dicom-seg --code SCT:52988006:Lesion --code 2=SCT:10200004:Liver
  medsam2 cohort export out/ -o plans/ --format rtstruct       # RT Structure Sets, of studies that are DICOM

Taken is what somebody has accepted or corrected (medsam2 serve --cohort out/); with --all also what nobody has decided,
but never what was rejected. The labels of one study are in one file; corrections stand in place of what they correct.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser("medsam2 cohort export", "Write the accepted labels of a cohort.", EXAMPLES)
    p.add_argument("cohort", type=Path, metavar="OUT", help="output of medsam2 cohort")
    p.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="a new folder, or an empty one",
    )
    p.add_argument("--format", choices=list(EXPORTS), default="nifti", help="default: %(default)s")
    p.add_argument("--all", action="store_true", help="also what nobody has decided")
    add_dicom_options(p)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Studies that cannot be written are named, and make its exit code 1."""
    p = parser()
    args = p.parse_args(arguments)
    if is_dicom_told(args) and args.format not in DICOM:
        p.error(
            "--code, --category, --seg-type and --keep-empty-frames are for DICOM; name such a --format"
        )
    if args.format == "rtstruct" and (args.category or args.seg_type or args.keep_empty_frames):
        p.error(
            "--category, --seg-type and --keep-empty-frames are for segmentations, not structures"
        )
    options = segmentation_of(args)
    review = Review(args.cohort)
    _check(args)
    args.output.mkdir(exist_ok=True)
    num_studies, told = (
        review.num_studies,
        Counter(studies=0, objects=0, files=0, left_out=0, failed=0),
    )
    try:
        _export_all(review, num_studies, args, options, told)
    except BaseException:
        log.warning(
            "ended early: %s in %s and not all; empty it, or name another folder, to export all",
            counted(told["studies"], "study is", "studies are"),
            args.output,
        )
        raise
    if not num_studies:
        log.warning("nothing is written: no study of %s is done yet", args.cohort)
    elif not told["studies"] and not told["failed"]:
        log.warning(
            "nothing is written: %s; review it with medsam2 serve --cohort %s, or take what nobody has decided too, "
            "with --all",
            "nobody has accepted anything"
            if not args.all
            else "all of it was rejected or found nothing",
            args.cohort,
        )
    print_result({"output": str(args.output), "format": args.format, **told})
    if told["failed"]:
        raise Sam2Error(
            f"{counted(told['failed'], 'study', 'studies')} could not be exported; the others are in {args.output}"
        )


def _export_all(
    review: Review,
    num_studies: int,
    args: argparse.Namespace,
    options: SegmentationOptions,
    told: Counter[str],
) -> None:
    """Export study by study, counting into `told`."""
    found = labelled(review, args.all)
    with (
        logging_redirect_tqdm(),
        tqdm(found, total=num_studies, desc="export", unit="study", file=sys.stderr) as bar,
    ):
        for study in bar:
            if isinstance(study, LabelledStudy):
                _export(study, args, options, told)
            else:
                told["failed" if study.error else "left_out"] += 1
                if study.error:
                    log.warning("%s: %s", study.name, study.error)


def _export(
    study: LabelledStudy,
    args: argparse.Namespace,
    options: SegmentationOptions,
    told: Counter[str],
) -> None:
    try:
        files = EXPORTS[args.format](args.output, study, options)
    except InputError as error:  # of this study: what the disk refuses ends the command
        log.warning("%s: %s", study.name, error)
        told["failed"] += 1
        return
    keeps_overlaps = args.format in DICOM and options.type == "binary"
    if not keeps_overlaps and (count := study.num_overlapping):
        log.warning(
            "%s: objects overlap in %s, which the highest of them have here; --format dicom-seg keeps all",
            study.name,
            counted(count, "voxel"),
        )
    told.update(studies=1, objects=study.num_objects, files=len(files))


def _check(args: argparse.Namespace) -> None:
    """Raise InputError or MissingInput for a folder that is not to be written into."""
    output = os.path.realpath(args.output)
    if os.path.commonpath([output, os.path.realpath(args.cohort)]) == os.path.realpath(args.cohort):
        raise InputError(f"{args.output} lies within {args.cohort}; choose another folder")
    check_folder(args.output)
    if args.output.exists() and any(args.output.iterdir()):
        raise InputError(f"{args.output} is not empty; empty it, or name a new folder")
    if args.format == "dicom-seg":
        import highdicom  # noqa: F401
