"""What a report says of the crops in which an object was seen, and why each of them was chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from runtime.predictors.region import Region


@dataclass(frozen=True, slots=True)
class CropReport:
    """One crop, and the slices in a row on which the network was shown it.

    Attributes:
        start, stop: half-open range of slices.
        crop: of these slices, in pixels.
        reason: "prompt", about what was prompted, or as another object near by is seen; or "edge", the mask came near
            to the edge of the crop before.
    """

    start: int
    stop: int
    crop: Region
    reason: str

    def entry(self) -> dict[str, Any]:
        """As it stands in a report."""
        return {
            "slices": [self.start, self.stop],
            "y": list(self.crop.y),
            "x": list(self.crop.x),
            "reason": self.reason,
        }


def crop_reports(shown: Mapping[int, Region], prompted: Collection[int]) -> list[CropReport]:
    """Crops in the order of slices, from what was shown of each; in none of them prompted means too tight before."""
    chosen = {shown[index] for index in prompted if index in shown}
    # Neighbours that were shown alike have one number in common: their own less how many came before.
    rows = [(index, crop, index - n) for n, (index, crop) in enumerate(sorted(shown.items()))]
    reports = []
    for (crop, _), group in groupby(rows, key=lambda row: row[1:]):
        slices = [index for index, *_ in group]
        reason = "prompt" if crop in chosen else "edge"
        reports.append(CropReport(slices[0], slices[-1] + 1, crop, reason))
    return reports
