"""What a report warns of: few things, sure ones, each with a way to mend it.

Thresholds come from the physics of CT and from what confidence means (an overlap), not from data.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io import Volume
from runtime.io.window import CT_PRESETS, Window, apply_window, looks_like_ct, looks_unlike_ct
from runtime.jobs.object_report import ObjectReport
from runtime.process.counted import counted
from runtime.prompts.prompts import Box, Prompt

log = logging.getLogger("runtime")

CODES = {
    "ct_as_mr": "intensities look like CT without its air, but were windowed like MR",
    "mr_as_ct": "intensities do not look like CT, but were windowed like it",
    "prompt_on_nothing": "a box holds a single grey value once windowed",
    "empty_object": "an object was found on no slice",
    "not_followed": "an object was found where it was prompted, and on none of the other slices",
    "low_confidence": "masks were written of which the network doubts that half is right",
    "cut_by_range": "an object goes on to an end of --z-range, beyond which the volume goes on",
    "far_apart": "slices are far apart, so that an object moves from one to the next",
    "not_mm": "a file gives lengths in another unit than mm, of which most viewers take no notice",
    "not_square": "pixels are far from square, so that the network sees everything squashed",
    "frames_missing": "a video has fewer frames than it says",
}
DOUBT = 0.5  # confidence estimates IoU: below this, more of mask and truth is apart than shared
FAR_APART_MM = 10.0
NOT_SQUARE = 3.0  # times as long as wide
MIN_BOX = 9  # pixels: a smaller box may well be of one grey


@dataclass(frozen=True, slots=True)
class Notice:
    """One warning.

    Attributes:
        code: of `CODES`.
        message: what was found and how to mend it.
        object_id: which object it is about, or None.
        slices: which slices, images or frames.
    """

    code: str
    message: str
    object_id: int | None = None
    slices: tuple[int, ...] = ()

    def entry(self) -> dict[str, Any]:
        """As it stands in a report."""
        slices = list(self.slices)
        return {
            "code": self.code,
            "message": self.message,
            "object": self.object_id,
            "slices": slices,
        }


def say(notices: Sequence[Notice]) -> None:
    """Log each as a warning."""
    for notice in notices:
        log.warning("warning: %s", notice.message)


def about_window(volume: Volume, asked: Window, used: Window) -> list[Notice]:
    """Whether a volume was taken for what it is not."""
    names = ", ".join(CT_PRESETS)
    if asked.kind == "auto" and used.kind == "percentile" and looks_like_ct(volume):
        return [
            Notice(
                "ct_as_mr",
                "intensities look like CT (Hounsfield units) whose air is missing, but were windowed like MR, by "
                f"percentiles; if this is CT, say how to see it: --window {{{names}}}",
            )
        ]
    if used.kind in CT_PRESETS and looks_unlike_ct(volume):
        what = "this is MR" if volume.modality == "MR" else "intensities do not look like CT"
        return [
            Notice(
                "mr_as_ct",
                f"{what}, but they were windowed like CT ({used.describe}); for MR: --window percentile",
            )
        ]
    return []


def about_images(
    arrays: Sequence[NDArray[Any]], names: Sequence[str], asked: Window
) -> list[Notice]:
    """The same of grey images (y, x), each of which has a window of its own; one warning for all of a code."""
    merged: dict[str, Notice] = {}
    for index, (array, name) in enumerate(zip(arrays, names, strict=True)):
        if array.ndim != 2 or array.dtype == np.uint8:
            continue
        volume = replace(Volume.from_array(array[None]), source=name)
        for notice in about_window(volume, asked, apply_window(volume, asked)[1]):
            first = merged.setdefault(notice.code, notice)
            merged[notice.code] = replace(first, slices=(*first.slices, index))
    return list(merged.values())


def about_grid(volume: Volume) -> list[Notice]:
    """Whether slices are such as a network for pictures can follow."""
    notices = []
    z_mm, y_mm, x_mm = volume.spacing_mm
    if volume.unit != "mm":
        notices.append(
            Notice(
                "not_mm",
                f"lengths are in {volume.unit} in the file and in mm here; viewers that take no notice of units show "
                "masks in their place only if these are .nrrd or .mha",
            )
        )
    if volume.shape[0] > 1 and z_mm >= FAR_APART_MM:
        notices.append(
            Notice(
                "far_apart",
                f"slices are {z_mm:g} mm apart: an object may be lost in between; prompt it on several slices",
            )
        )
    if max(y_mm, x_mm) >= NOT_SQUARE * min(y_mm, x_mm):
        notices.append(
            Notice(
                "not_square",
                f"pixels are {y_mm:g} x {x_mm:g} mm, which the network sees as squares; give it the volume with its "
                "thickest axis as z (for instance reoriented by 3D Slicer), or resampled",
            )
        )
    return notices


def about_prompts(
    pixels: Mapping[int, NDArray[np.uint8]],
    prompts: Mapping[int, Sequence[Prompt]],
    unit: str = "slice",
) -> list[Notice]:
    """Boxes of a single grey in the pictures (y, x) that the network sees, by slice."""
    notices = []
    for object_id, own in sorted(prompts.items()):
        for prompt in own:
            if not isinstance(prompt, Box):
                continue
            inside = _inside(pixels[prompt.slice], prompt)
            if inside.size >= MIN_BOX and np.ptp(inside) == 0:
                notices.append(
                    Notice(
                        "prompt_on_nothing",
                        f"the box of object {object_id} on {unit} {prompt.slice} holds a single grey: does it lie in "
                        "the air? its numbers are z,y0,y1,x0,x1 in voxels; or --window hides what it is about",
                        object_id,
                        (prompt.slice,),
                    )
                )
    return notices


def _inside(plane: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    (y0, y1), (x0, x1) = ((int(low), int(np.ceil(high))) for low, high in (box.y, box.x))
    return plane[y0:y1, x0:x1]


def about_objects(objects: Sequence[ObjectReport], unit: str = "slice") -> list[Notice]:
    """Whether objects were found, followed, and surely."""
    notices = []
    for report in objects:
        tracked = [row for row in report.rows if not row.is_prompted]
        doubtful = tuple(r.slice for r in tracked if r.voxels and not r.confidence >= DOUBT)
        if not report.voxels:
            notices.append(
                Notice(
                    "empty_object",
                    f"object {report.object_id} was found on no {unit}; see with --preview whether its prompts lie on "
                    "it and the window shows it",
                    report.object_id,
                )
            )
        elif tracked and not any(row.voxels for row in tracked):
            notices.append(
                Notice(
                    "not_followed",
                    f"object {report.object_id} was found where it was prompted and on no other {unit} "
                    f"(of {len(tracked)}); prompt it on further ones",
                    report.object_id,
                )
            )
        if doubtful:
            written = sum(1 for row in tracked if row.voxels)
            notices.append(
                Notice(
                    "low_confidence",
                    f"object {report.object_id}: on {len(doubtful)} of {counted(written, unit)} it was followed to, "
                    f"confidence is below {DOUBT:g} ({in_ranges(doubtful)}); look at these, and add prompts there",
                    report.object_id,
                    doubtful,
                )
            )
    return notices


def about_range(
    objects: Sequence[ObjectReport], z_range: tuple[int, int] | None, depth: int
) -> list[Notice]:
    """Objects that a z-range has cut."""
    if z_range is None:
        return []
    first, last = z_range[0], z_range[1] - 1
    ends: Collection[int] = {i for i, end in ((first, 0), (last, depth - 1)) if i != end}
    notices = []
    for report in objects:
        held = tuple(row.slice for row in report.rows if row.voxels and row.slice in ends)
        if held:
            notices.append(
                Notice(
                    "cut_by_range",
                    f"object {report.object_id} is there on {'slices' if len(held) > 1 else 'slice'} "
                    f"{in_ranges(held)}, where --z-range ends and the volume does not; widen the range if it goes on",
                    report.object_id,
                    held,
                )
            )
    return notices


def in_ranges(slices: Sequence[int]) -> str:
    """Numbers in few words: "3, 5-9"."""
    runs: list[list[int]] = []
    for index in sorted(slices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
