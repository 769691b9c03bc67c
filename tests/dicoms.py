"""DICOM files for tests, written by pydicom."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from runtime.io import Volume

SERIES = "1.2.826.0.1.1"
OTHER_SERIES = "1.2.826.0.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (2 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3, -2 / 3)
ORIGIN_MM = (-120.5, 33.25, 810.75)
SPACING_ZYX_MM = (2.5, 0.7, 0.85)
SHAPE = (5, 6, 8)
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
Edit = Callable[[Dataset, int], None]


def pixels(depth: int = SHAPE[0]) -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, (depth, *SHAPE[1:])).astype(np.int16)


def decimals(values: Any) -> list[str]:
    return [f"{value:.6f}" for value in values]


def normal(orientation: tuple[float, ...]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def an_object(sop_class: str, series: str, transfer_syntax: str, number: int = 1) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = "1.2.826.0.1"
    dataset.SeriesInstanceUID = series
    dataset.Modality = "CT"
    dataset.SeriesDescription = "thin"
    return dataset


def an_image(array: np.ndarray, *identity: Any) -> Dataset:
    """identity: the arguments of an_object."""
    dataset = an_object(*identity)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.Rows, dataset.Columns = array.shape[-2:]
    order = ">" if identity[2] == ExplicitVRBigEndian else "<"
    dataset.PixelData = array.astype(f"{order}i2").tobytes()
    return dataset


def in_run_lengths(frame: np.ndarray) -> bytes:
    """A segment for each byte, the most significant first; runs of each value as often as it follows itself."""
    segments = []
    for plane in frame.astype(frame.dtype.newbyteorder(">")).reshape(-1, 1).view(np.uint8).T:
        segment, values = b"", plane.tobytes()
        while values:
            run = min(len(values) - len(values.lstrip(values[:1])), 128)
            segment += bytes([257 - run, values[0]]) if run > 1 else bytes([0, values[0]])
            values = values[run:]
        segments.append(segment)
    starts = np.cumsum([64, *map(len, segments)])[:-1].tolist()
    return struct.pack(f"<{1 + len(starts)}I", len(starts), *starts).ljust(64, b"\0") + b"".join(
        segments
    )


def write(path: Path, stored: np.ndarray, syntax: str, bits: int, edit: Any = None) -> None:
    """One file of the containers `stored` (frames, y, x) or (frames, y, x, 3), of which `bits` are used."""
    dataset = an_image(
        stored[0, ..., 0] if stored.ndim == 4 else stored, CTImageStorage, SERIES, syntax
    )
    dataset.Rows, dataset.Columns = stored.shape[1:3]
    if len(stored) > 1:
        dataset.NumberOfFrames = len(stored)
    dataset.SamplesPerPixel = 3 if stored.ndim == 4 else 1
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if stored.ndim == 4:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = (
        "OB" if stored.dtype.itemsize == 1 and syntax != ImplicitVRLittleEndian else "OW"
    )
    if syntax == RLELossless:
        dataset.PixelData = encapsulate([in_run_lengths(frame) for frame in stored])
        dataset["PixelData"].VR = "OB"
    if edit:
        edit(dataset)
    dataset.save_as(path, enforce_file_format=True)


def save_series(
    folder: Path,
    edit: Edit | None = None,
    *,
    names: list[str] | None = None,
    depth: int = SHAPE[0],
    orientation: tuple[float, ...] = AXIAL,
    series: str = SERIES,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> np.ndarray:
    """Slices 000.dcm, 001.dcm... along their normal; `edit` changes each before it is saved."""
    folder.mkdir(exist_ok=True)
    array = pixels(depth)
    for index, plane in enumerate(array):
        dataset = an_image(plane, CTImageStorage, series, transfer_syntax, index + 1)
        position_mm = ORIGIN_MM + index * SPACING_ZYX_MM[0] * normal(orientation)
        dataset.ImagePositionPatient = decimals(position_mm)
        dataset.ImageOrientationPatient = decimals(orientation)
        dataset.PixelSpacing = decimals(SPACING_ZYX_MM[1:])
        dataset.SliceThickness = "2.5"
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
        if edit:
            edit(dataset, index)
        name = names[index] if names else f"{index:03}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return array


def group(**sequences: dict[str, Any]) -> Dataset:
    """A functional group: each sequence with one item."""
    dataset = Dataset()
    for name, values in sequences.items():
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(dataset, name, [item])
    return dataset


def rescaling(slope: float, intercept: float) -> dict[str, Any]:
    values = {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "US"}
    return {"PixelValueTransformationSequence": values}


def save_frames(
    path: Path,
    edit: Callable[[Dataset], None] | None = None,
    *,
    steps: tuple[float, ...] = (0, 1, 2, 3),
    orientation: tuple[float, ...] = AXIAL,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> np.ndarray:
    """An enhanced MR object, whose frames lie so many slice spacings along the normal."""
    array = pixels(len(steps))
    dataset = an_image(array, EnhancedMRImageStorage, SERIES, transfer_syntax)
    dataset.Modality = "MR"
    dataset.NumberOfFrames = len(steps)
    dataset.SharedFunctionalGroupsSequence = [
        group(
            PixelMeasuresSequence={"PixelSpacing": decimals(SPACING_ZYX_MM[1:])},
            PlaneOrientationSequence={"ImageOrientationPatient": decimals(orientation)},
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence={
                "ImagePositionPatient": decimals(
                    ORIGIN_MM + step * SPACING_ZYX_MM[0] * normal(orientation)
                )
            }
        )
        for step in steps
    ]
    if edit:
        edit(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return array


def bundled(name: str) -> Path:
    """A file that comes with pydicom itself."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def assert_grid(volume: Volume, orientation: tuple[float, ...] = AXIAL) -> None:
    axes = np.stack([orientation[:3], orientation[3:], normal(orientation)], axis=1)
    assert volume.spacing_mm == pytest.approx(SPACING_ZYX_MM, rel=1e-6)
    assert volume.origin_mm == pytest.approx(ORIGIN_MM)
    assert volume.direction == pytest.approx(axes.ravel(), abs=2e-6)
