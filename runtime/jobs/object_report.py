"""What a report says of the objects: each on every slice it was looked for, in numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.jobs.crop_report import CropReport, crop_reports
from runtime.predictors.region import Region
from runtime.predictors.result import SliceMask
from runtime.predictors.stop import End
from runtime.prompts.prompt_file import prompt_entry
from runtime.prompts.prompts import Prompt


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One object on one slice, image or frame.

    Attributes:
        slice: its number, from 0.
        confidence: the network's estimate of the mask's overlap with the truth, 0 where the object is absent.
        voxels: of its mask.
        is_prompted: whether it was prompted there.
        in_memory: slices that were in memory there.
        shown: the part of the slice that the network was shown, in pixels.
    """

    slice: int
    confidence: float
    voxels: int
    is_prompted: bool
    in_memory: tuple[int, ...]
    shown: Region

    @classmethod
    def of(
        cls, index: int, mask: SliceMask, is_prompted: bool, shown: Region | None = None
    ) -> SliceReport:
        """From a mask; `shown` is what it was first found in, where it has been changed since."""
        voxels = int(mask.mask().sum())
        seen = shown or mask.crop or Region.whole(mask.shape)
        return cls(index, mask.confidence, voxels, is_prompted, mask.memory_frames, seen)


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """One object: its id, rows in the order of slices, and where and why following it ended in each direction."""

    object_id: int
    rows: tuple[SliceReport, ...]
    ends: tuple[End, ...] = ()

    @property
    def voxels(self) -> int:
        """Of all its masks."""
        return sum(row.voxels for row in self.rows)

    @property
    def crops(self) -> list[CropReport]:
        """In which the network was shown it."""
        shown = {row.slice: row.shown for row in self.rows}
        return crop_reports(shown, [row.slice for row in self.rows if row.is_prompted])

    @property
    def extent(self) -> list[int] | None:
        """The first slice with a mask and the one after the last; None if there is none."""
        held = [row.slice for row in self.rows if row.voxels]
        return [held[0], held[-1] + 1] if held else None


def object_reports(
    slices: Mapping[int, Mapping[int, SliceMask]],
    prompted: Mapping[int, Collection[int]],
    ends: Mapping[int, Sequence[End]] | None = None,
    first: Mapping[int, Mapping[int, SliceMask]] | None = None,
) -> list[ObjectReport]:
    """Objects from masks by object and slice, the slices on which each was prompted, and where each ended.

    `first` are the masks as they were found, where they have been changed since.
    """
    as_found = slices if first is None else first
    return [
        ObjectReport(
            object_id,
            tuple(
                SliceReport.of(i, mask, i in prompted[object_id], as_found[object_id][i].crop)
                for i, mask in sorted(masks.items())
            ),
            tuple((ends or {}).get(object_id, ())),
        )
        for object_id, masks in sorted(slices.items())
    ]


def object_entries(
    objects: Sequence[ObjectReport],
    prompts: Mapping[int, Sequence[Prompt]],
    voxel_ml: float | None,
    with_memory: bool,
    with_crops: bool,
) -> list[dict[str, Any]]:
    """The report's `objects`, with their prompts; volumes only where the size of a voxel is known."""
    return [
        {
            "id": report.object_id,
            "prompts": [prompt_entry(prompt) for prompt in prompts[report.object_id]],
            "voxels": report.voxels,
            "volume_ml": None if voxel_ml is None else round(report.voxels * voxel_ml, 3),
            "extent": report.extent,
            "ends": [asdict(end) for end in report.ends],
            "crops": [crop.entry() for crop in report.crops] if with_crops else [],
            "slices": [_entry(row, with_memory) for row in report.rows],
        }
        for report in objects
    ]


def _entry(row: SliceReport, with_memory: bool) -> dict[str, Any]:
    entry = {
        "slice": row.slice,
        "confidence": round(row.confidence, 3),
        "voxels": row.voxels,
        "is_prompted": row.is_prompted,
    }
    return entry | {"in_memory": list(row.in_memory)} if with_memory else entry
