"""RECIST lines, by which radiologists measure lesions: the longest diameter on the slice where that is longest."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

from runtime.errors import PromptError
from runtime.prompts.prompt_file import parse_numbers, parse_slice
from runtime.prompts.prompts import Box, Point, check_prompt

MIN_LENGTH = 1.0  # pixels; less is a point


@dataclass(frozen=True, slots=True)
class Recist:
    """A line across a lesion on a slice, from voxel (y, x) to voxel (y, x)."""

    slice: int
    start: tuple[float, float]
    end: tuple[float, float]

    @property
    def length(self) -> float:
        """In pixels."""
        return hypot(self.end[0] - self.start[0], self.end[1] - self.start[1])

    def box(self, shape: tuple[int, int, int]) -> Box:
        """The square about the line's middle with the line's length as its side, as far as it lies within the slice.

        It is that of MedSAM2's script (medsam2_infer_CT_lesion_npz_recist.py --propagate_with_box), with the voxels of
        both ends inside where the line lies along an axis. Raises PromptError for a line that does not lie within a
        volume of `shape` (z, y, x), and for one that is a point.
        """
        for y, x in (self.start, self.end):
            check_prompt(Point(slice=self.slice, y=y, x=x), shape)
        if self.length < MIN_LENGTH:
            raise PromptError(
                f"the RECIST line on slice {self.slice} is {self.length:g} pixels long; wanted both ends of a diameter"
            )
        _, height, width = shape
        return Box(slice=self.slice, y=self._span(0, height), x=self._span(1, width))

    def _span(self, axis: int, size: int) -> tuple[float, float]:
        middle, half = (self.start[axis] + self.end[axis] + 1) / 2, (self.length + 1) / 2
        return max(middle - half, 0.0), min(middle + half, float(size))


def parse_recist(text: str) -> Recist:
    """`z,y0,x0,y1,x1`: a slice and both ends of the line. Raises PromptError."""
    z, y0, x0, y1, x1 = parse_numbers(text, ("z,y0,x0,y1,x1",))
    return Recist(parse_slice(z), (y0, x0), (y1, x1))
