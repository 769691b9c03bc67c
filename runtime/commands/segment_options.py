"""What `medsam2 segment` and `medsam2 cohort` are told alike: how objects are seen, remembered and followed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from runtime.bundle.confidence import MEASURES
from runtime.io.dicom.codes import ABNORMAL, LESION, parse_codes
from runtime.io.dicom.query import KEYWORDS
from runtime.io.dicom.seg import SEGMENTATION_TYPES, SegmentationOptions
from runtime.io.volumes.nifti_forms import AFFINES
from runtime.memory import MemoryRules
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import (
    MAX_SIMILARITY,
    MIN_CONFIDENCE,
    MIN_SIMILARITY,
    POLICIES,
)
from runtime.predictors.chosen import AUTO, Auto
from runtime.predictors.clean import CLEANINGS
from runtime.predictors.result import check_smooth
from runtime.predictors.stop import STOP_AFTER, StopRule
from runtime.predictors.zoom import check_zoom

OF_BUNDLE = "default: what the bundle has measured, else"


def add_sight_options(p: argparse.ArgumentParser) -> None:
    """`--window`, `--zoom` and `--smooth`."""
    p.add_argument("--window", default="auto", help="how intensities become 8 bits (%(default)s)")
    p.add_argument(
        "--zoom",
        type=number,
        default=AUTO,
        metavar="F",
        help="show the network a crop so many times the object's extent, such as 3; none: whole slices "
        f"({OF_BUNDLE} none; of images and videos: none)",
    )
    p.add_argument(
        "--smooth",
        type=number,
        default=AUTO,
        metavar="S",
        help="make contours even: a Gaussian over the network's answer, sigma in its pixels, such as 0.7; none: as "
        f"they are ({OF_BUNDLE} none; of images and videos: none)",
    )


def add_memory_options(p: argparse.ArgumentParser) -> None:
    """How objects are remembered."""
    memory = p.add_argument_group("memory").add_argument
    memory("--memory", choices=list(POLICIES), help=f"what is remembered ({OF_BUNDLE} fifo)")
    memory("--pick-up", choices=list(PICK_UPS), help=f"how it weighs ({OF_BUNDLE} all)")
    memory(
        "--capacity", type=int, metavar="N", help="tracked slices kept; default: the policy's own"
    )
    memory(
        "--min-confidence",
        type=float,
        default=MIN_CONFIDENCE,
        metavar="C",
        help="to enter (%(default)s)",
    )
    memory(
        "--max-similarity",
        type=float,
        default=MAX_SIMILARITY,
        metavar="S",
        help="of two (%(default)s)",
    )
    memory(
        "--min-similarity",
        type=float,
        default=MIN_SIMILARITY,
        metavar="S",
        help="of an unsure one to any, to enter (%(default)s); -1 lets all in",
    )
    memory("--confidence", default="iou", choices=list(MEASURES), help="what it is (%(default)s)")
    memory("--seed", type=int, default=0, help="of --pick-up resample (%(default)s)")


def add_stop_options(p: argparse.ArgumentParser, of: str) -> None:
    """When an object is followed no further; `of` names the group."""
    stop = p.add_argument_group(of).add_argument
    stop(
        "--stop-below",
        type=number,
        default=AUTO,
        metavar="C",
        help="end where an object was absent, or less confident than this, on some slices in a row; none: follow it "
        f"through all ({OF_BUNDLE} none; of videos: none)",
    )
    stop("--stop-after", type=int, metavar="N", help=f"how many in a row (default: {STOP_AFTER})")


def add_volume_options(p: argparse.ArgumentParser) -> Callable[..., argparse.Action]:
    """`--clean`, `--track-every` and how volumes are read; gives what adds others to their group."""
    volumes = p.add_argument_group("volumes").add_argument
    add_reading_options(volumes)
    volumes(
        "--clean",
        choices=list(CLEANINGS),
        help="at the end: keep each object's largest part, fill its cavities, or both",
    )
    volumes(
        "--track-every",
        type=float,
        metavar="MM",
        help="of thin slices: track some, so far apart, and interpolate between them; where a file has no "
        "spacing its slices are 1 mm apart",
    )
    return volumes


def add_reading_options(add: Callable[..., argparse.Action]) -> None:
    """`--series` and `--affine`, where a volume could be read in more than one way."""
    add(
        "--series",
        action="append",
        metavar="KEY=VALUE",
        help="which series of a DICOM folder: its UID, or, such as 'SeriesDescription=*venous*', what it is; again for "
        "each of " + ", ".join(KEYWORDS),
    )
    add("--affine", choices=AFFINES, help="which is right where NIfTI's two disagree")


def add_dicom_options(p: argparse.ArgumentParser) -> None:
    """How masks are written as DICOM."""
    dicom = p.add_argument_group("masks as DICOM (.dcm)").add_argument
    add_code_options(dicom)
    dicom("--seg-type", choices=SEGMENTATION_TYPES, help="how objects are stored (default: binary)")
    dicom("--keep-empty-frames", action="store_true", help="also of slices without an object")


def add_code_options(dicom: Callable[..., argparse.Action]) -> None:
    """`--code` and `--category`, of all objects or of one."""
    form = "[OBJECT=]S:V:M"
    dicom(
        "--code",
        action="append",
        metavar=form,
        help=f"what the objects are, or one of them, coded; may be repeated (default: {LESION})",
    )
    dicom(
        "--category",
        action="append",
        metavar=form,
        help=f"which kind of thing, likewise (default: {ABNORMAL})",
    )


def is_dicom_told(args: argparse.Namespace) -> bool:
    """Whether anything was said of masks as DICOM."""
    return bool(args.code or args.category or args.seg_type or args.keep_empty_frames)


def job_options(args: argparse.Namespace) -> dict[str, Any]:
    """What these options say, as arguments of `Job`. Raises InputError or ValueError for what makes none."""
    same = ("window", "backend", "threads", "hint", "max_memory", "clean", "affine")
    return {
        **{name: getattr(args, name) for name in same},
        "labels_as": args.labels_as or "box",
        "memory": _memory_rules(args),
        "is_memory_chosen": args.memory is not None or args.pick_up is not None,
        "stop": _stop(args),
        "zoom": args.zoom if args.zoom == AUTO else check_zoom(args.zoom),
        "smooth": args.smooth if args.smooth == AUTO else check_smooth(args.smooth),
        "track_every_mm": args.track_every,
        "segmentation": segmentation_of(args),
    }


def _memory_rules(args: argparse.Namespace) -> MemoryRules:
    return MemoryRules(
        policy=args.memory or "fifo",
        pick_up=args.pick_up or "all",
        capacity=args.capacity,
        min_confidence=args.min_confidence,
        max_similarity=args.max_similarity,
        min_similarity=args.min_similarity,
        confidence=args.confidence,
        seed=args.seed,
    )


def segmentation_of(args: argparse.Namespace) -> SegmentationOptions:
    """How masks are written as DICOM, by the options of `add_dicom_options`."""
    code, codes = parse_codes(args.code or (), LESION)
    category, categories = parse_codes(args.category or (), ABNORMAL)
    return SegmentationOptions(
        code,
        category,
        args.seg_type or "binary",
        args.keep_empty_frames,
        codes=codes,
        categories=categories,
    )


def _stop(args: argparse.Namespace) -> StopRule | Auto | None:
    if not isinstance(args.stop_below, float):
        below: Auto | None = args.stop_below
        return below
    after = STOP_AFTER if args.stop_after is None else args.stop_after
    return StopRule(below=args.stop_below, after=after)


def check_stop(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A usage error for a number of slices without a confidence."""
    if args.stop_after is not None and not isinstance(args.stop_below, float):
        p.error("--stop-after says how many slices of less than --stop-below: give that too")


def number(text: str) -> float | Auto | None:
    """What --stop-below, --zoom or --smooth says. Raises ValueError for anything but a number, none or auto."""
    words: dict[str, Auto | None] = {"none": None, AUTO: AUTO}
    return words[text] if text in words else float(text)
