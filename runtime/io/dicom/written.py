"""Whether a DICOM Segmentation that was written holds what it was to hold; read with pydicom alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.dicom.segments import Segments
from runtime.io.dicom.sources import Sources

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_POSITION_MM = 1e-3  # positions are copied; decimals of theirs may be written anew


def difference(part: Path, segments: Segments, sources: Sources, keeps_empty: bool) -> str:
    """What is wrong with a segmentation in a file, or nothing.

    Each frame must be the mask of its segment on the image that it refers to and lie where that does, and no frame
    that holds anything may be missing.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return _difference(part, segments, sources, keeps_empty)
    except Exception as error:  # pydicom raises anything for a file that is cut short
        return f"it cannot be followed ({type(error).__name__}: {error})"


def _difference(part: Path, segments: Segments, sources: Sources, keeps_empty: bool) -> str:
    from pydicom import dcmread

    there = dcmread(part, stop_before_pixels=True)
    first = sources.datasets[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        if (there.get(keyword) or "") != (first.get(keyword) or ""):
            return f"its {keyword} is another"
    is_labelmap = there.SegmentationType == "LABELMAP"
    slice_of = {reference: index for index, reference in enumerate(sources.references)}
    groups = there.PerFrameFunctionalGroupsSequence
    seen: set[tuple[int, int]] = set()
    for own, frame in zip(groups, _frames(part, there), strict=True):
        index = slice_of[_source(own)]
        position_mm = own.PlanePositionSequence[0].ImagePositionPatient
        if not np.allclose(position_mm, sources.positions_mm[index], rtol=0, atol=_POSITION_MM):
            return f"a frame lies at {list(position_mm)}"
        named = segments.numbers if is_labelmap else (_segment(own, there),)
        for number in named:
            inside = frame == number if is_labelmap else frame != 0
            if not np.array_equal(inside, segments.plane(number, index)):
                return f"segment {number} is another on slice {index}"
            seen.add((number, index))
        if is_labelmap and frame.max() > len(segments.numbers):
            return f"slice {index} has labels of no segment"
    for index in range(len(sources.references)):
        for number in segments.numbers:
            is_due = keeps_empty or segments.plane(number, index).any()
            if is_due and (number, index) not in seen:
                return f"segment {number} is missing on slice {index}"
    return ""


def _frames(part: Path, there: Dataset) -> Iterator[NDArray[Any]]:
    """The frames (y, x). Of those whose bits begin within a byte pydicom 3.0 loses the last pixels."""
    from pydicom import dcmread
    from pydicom.pixels.utils import iter_pixels

    if there.BitsAllocated != 1:
        yield from iter_pixels(part, raw=True)
        return
    packed = np.frombuffer(dcmread(part).PixelData, np.uint8)
    shape = there.Rows, there.Columns
    for start in range(0, there.NumberOfFrames * prod(shape), prod(shape)):
        first, rest = divmod(start, 8)
        bits = np.unpackbits(
            packed[first : first + -(-(rest + prod(shape)) // 8)], bitorder="little"
        )
        yield bits[rest : rest + prod(shape)].reshape(shape)


def _source(own: Dataset) -> tuple[str, int]:
    """SOP instance UID and frame number of the image that a frame refers to."""
    (derivation,) = own.DerivationImageSequence
    (image,) = derivation.SourceImageSequence
    return str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1)


def _segment(own: Dataset, there: Dataset) -> int:
    shared = there.SharedFunctionalGroupsSequence[0]
    groups = own if "SegmentIdentificationSequence" in own else shared
    return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
