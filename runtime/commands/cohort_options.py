"""The arguments of `medsam2 cohort`."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.cohort.settings import FORMATS
from runtime.commands.options import add_model_options
from runtime.commands.segment_options import (
    add_dicom_options,
    add_memory_options,
    add_sight_options,
    add_stop_options,
    add_volume_options,
)
from runtime.io.dicom.query import KEYWORDS
from runtime.process.subcommands import command_parser
from runtime.prompts.label_map import LABELS_AS

EXAMPLES = """examples:
  medsam2 cohort -i studies/ -o out/                         # prompts lie beside the studies
  medsam2 cohort -i studies/ -o out/ --table lesions.csv     # or in a table: study, object, z, box | point | recist
  medsam2 cohort -i studies/ -o out/ --series Modality=CT --series 'SeriesDescription=*venous*'
  medsam2 cohort -i studies/ -o out/ --workers 4 --threads 2 --time-limit 600 --format dicom-seg
  medsam2 cohort --dicomweb https://pacs/dicom-web --table lesions.csv -o out/ --format dicom-seg --store
  medsam2 cohort --dicomweb https://pacs/dicom-web --search Modality=CT --search StudyDate=20240101-20240331 -o out/
  medsam2 cohort -i /shared/studies -o /shared/out --address auto --workers 64    # on a Ray cluster

beside a study: ct.json (as for medsam2 segment --prompts) or a label map ct.labels.nii.gz (.nii, .nrrd, .mha; .dcm) for
ct.nii.gz; series.json, series/prompts.json or series.labels.nii.gz for a folder series/ of DICOM slices.
out/: masks/, previews/, results.parquet (a row for each study and object), report.html, and cohort.sqlite, by which the
same command goes on where it was ended, by whatever. A study that fails is a row with its exit code and why.
docs/cohort.md has the columns, what happens when workers, nodes, disks or this command fail, and how to plan.
"""


# What labels become when they leave a cohort, and no mask of its own is.
EXPORTED = ("rtstruct", "npz")


def _mask_format(text: str) -> str:
    if text in EXPORTED:
        raise argparse.ArgumentTypeError(
            f"{text} is for what leaves a cohort: its own masks are label maps or segmentations, which review reads; "
            f"medsam2 cohort export OUT -o FOLDER --format {text} writes it of them"
        )
    return text


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 cohort",
        "Segment many studies, each from its own prompts, on many cores or machines.",
        EXAMPLES,
    )
    add = p.add_argument
    source = p.add_mutually_exclusive_group(required=True).add_argument
    source("-i", "--input", type=Path, metavar="STUDIES", help="folder, searched to its depths")
    source(
        "--dicomweb", metavar="URL", help="server that has the series of --table, or of --search"
    )
    add(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="folder, a new one or this cohort's",
    )
    add(
        "--table",
        type=Path,
        metavar="T",
        help="CSV or Parquet with the prompts; only its studies are done",
    )
    add(
        "--search",
        action="append",
        metavar="KEY=VALUE",
        help="series of the server, such as Modality=CT, with a segmentation there that shows what is asked for; again "
        "for each of " + ", ".join(KEYWORDS),
    )
    add("--limit", type=int, metavar="N", help="series that are searched for at the most")
    add(
        "--labels-as",
        choices=list(LABELS_AS),
        default="box",
        help="how label maps are asked for (%(default)s)",
    )
    add(
        "--format",
        type=_mask_format,
        choices=list(FORMATS),
        default="nifti",
        help="of masks (%(default)s)",
    )
    add(
        "--no-previews",
        action="store_true",
        help="draw none, which saves a tenth of a second a study",
    )
    add(
        "--time-limit",
        type=float,
        metavar="S",
        help="a study that takes longer has failed (default: none)",
    )
    add("--retry", action="store_true", help="do what has failed again")
    add(
        "--store",
        action="store_true",
        help="store masks on the DICOMweb server too, as DICOM Segmentations",
    )
    work = p.add_argument_group("workers").add_argument
    work(
        "--workers",
        type=int,
        metavar="N",
        help="default: as many as --threads, and GPUs, leave room for",
    )
    work(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="G",
        help="share of a GPU, such as 0.5 (%(default)g)",
    )
    work(
        "--address",
        metavar="A",
        help="of a Ray cluster, or auto; default: one is started on this machine",
    )
    add_sight_options(p)
    add_model_options(p)
    p.set_defaults(threads=1, hint="throughput")
    add_memory_options(p)
    add_stop_options(p, "stop rule")
    add_volume_options(p)
    add_dicom_options(p)
    return p
