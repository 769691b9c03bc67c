"""DICOM: a series in a folder and a multi-frame file, in the encodings that pydicom writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.fuzz.mutate import BYTE_DAMAGES, damage
from benchmarks.fuzz.seen import Seen
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.volumes import ORIGIN_MM, SPACING_MM
from runtime.io import read_volume

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
LITTLE, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG, DEFLATED, RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
DEPTH, ROWS, COLUMNS = 4, 10, 11
SLOPE, INTERCEPT = 2, -1024


def stored() -> np.ndarray:
    """Stored values (z, y, x), uint16 of twelve bits."""
    values = np.random.default_rng(5).integers(0, 4000, (DEPTH, ROWS, COLUMNS)).astype(np.uint16)
    values[:, 2:5] = 1000
    return values


def image(pixels: np.ndarray, syntax: str, sop_class: str, number: int):
    """A pydicom data set with pixels but no place, explicit or not as the transfer syntax says."""
    from pydicom.dataset import Dataset, FileMetaDataset

    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = LITTLE if syntax == RLE else syntax
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = sop_class
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.1.{number}"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality = "1.2.826.0.1", "1.2.826.0.1.1", "CT"
    d.PatientName, d.PatientID, d.SeriesDescription = "Phantom", "1", "thin"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.Rows, d.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        d.NumberOfFrames = len(pixels)
    d.PixelData = pixels.astype(">u2" if syntax == BIG else "<u2").tobytes()
    d["PixelData"].VR = "OW"
    if syntax == RLE:
        d.compress(RLE, generate_instance_uid=False)
    return d


def write_series(folder: Path, syntax: str) -> None:
    """Slices along z, one a file."""
    for index, plane in enumerate(stored()):
        d = image(plane, syntax, CT, index + 1)
        d.ImagePositionPatient = [*ORIGIN_MM[:2], ORIGIN_MM[2] + index * SPACING_MM[0]]
        d.ImageOrientationPatient, d.PixelSpacing = [1, 0, 0, 0, 1, 0], list(SPACING_MM[1:])
        d.SliceThickness, d.RescaleSlope, d.RescaleIntercept = SPACING_MM[0], SLOPE, INTERCEPT
        d.save_as(folder / f"{index}.dcm", enforce_file_format=True)


def write_frames(folder: Path, syntax: str) -> None:
    """All slices as frames of one enhanced object."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def item(**values: object) -> Dataset:
        dataset = Dataset()
        for name, value in values.items():
            setattr(dataset, name, value)
        return dataset

    d = image(stored(), syntax, ENHANCED_CT, 1)
    shared = item(
        PixelMeasuresSequence=Sequence(
            [item(PixelSpacing=list(SPACING_MM[1:]), SliceThickness=SPACING_MM[0])]
        ),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=SLOPE, RescaleIntercept=INTERCEPT, RescaleType="HU")]
        ),
    )
    frames = []
    for index in range(DEPTH):
        position = [*ORIGIN_MM[:2], ORIGIN_MM[2] + index * SPACING_MM[0]]
        frames.append(item(PlanePositionSequence=Sequence([item(ImagePositionPatient=position)])))
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    d.PerFrameFunctionalGroupsSequence = Sequence(frames)
    d.save_as(folder / "0.dcm", enforce_file_format=True)


def by_pydicom(folder: Path) -> Seen:
    """The files as pydicom decodes them, put in order by their positions along z."""
    from pydicom import dcmread

    sets = [dcmread(path) for path in sorted(folder.iterdir())]
    groups: list[tuple[float, np.ndarray, object, object]] = []
    for d in sets:
        pixels = d.pixel_array.reshape(-1, d.Rows, d.Columns).astype(np.float64)
        shared = d.get("SharedFunctionalGroupsSequence", [d])[0]
        rescale = shared.get("PixelValueTransformationSequence", [shared])[0]
        measures = shared.get("PixelMeasuresSequence", [shared])[0]
        orientation = shared.get("PlaneOrientationSequence", [shared])[0].ImageOrientationPatient
        slope, intercept = rescale.get("RescaleSlope", 1), rescale.get("RescaleIntercept", 0)
        pixels = pixels * float(slope) + float(intercept)
        places = [
            f.PlanePositionSequence[0] for f in d.get("PerFrameFunctionalGroupsSequence", [])
        ] or [d]
        for plane, place in zip(pixels, places, strict=True):
            groups.append((place.ImagePositionPatient, plane, measures, orientation))
    across = np.array([groups[0][3][:3], groups[0][3][3:]], np.float64)
    normal = np.cross(*across)
    groups.sort(key=lambda group: float(np.dot(normal, np.array(group[0], np.float64))))
    origin = np.array(groups[0][0], np.float64)
    affine = np.eye(4)
    affine[:3, 0] = across[0] * float(groups[0][2].PixelSpacing[1])
    affine[:3, 1] = across[1] * float(groups[0][2].PixelSpacing[0])
    last = np.array(groups[-1][0], np.float64)
    thick = float(groups[0][2].get("SliceThickness", 1) or 1)
    affine[:3, 2] = (last - origin) / (len(groups) - 1) if len(groups) > 1 else normal * thick
    affine[:3, 3] = origin
    return Seen(np.stack([group[1] for group in groups]), affine)


def judge(volume, folder: Path, truth: Seen) -> str | None:
    """Right is what the undamaged files held, or what pydicom makes of the damaged ones."""
    ours = Seen.of(volume)
    if (changed := ours.difference(truth)) is None:
        return None
    try:
        theirs = by_pydicom(folder)
    except Exception as error:
        return f"read, with {changed}; refused by pydicom: {type(error).__name__}: {error}"
    differs = ours.difference(theirs)
    return None if differs is None else f"{differs} from pydicom; from the undamaged: {changed}"


def dataset_damage(data: bytes, rng: Random) -> bytes:
    """Damage past the preamble, at elements' heads more often than chance would have it."""
    if rng.random() < 0.5:
        return data[:132] + damage(data[132:], rng)
    at = rng.randrange(132, len(data))
    return data[:at] + rng.choice(BYTE_DAMAGES)(data[at:], rng)


def target(write: Callable[[Path, str], None], syntax: str) -> Target:
    """One kind of object in one transfer syntax."""

    def prepare(folder: Path) -> Seen:
        write(folder, syntax)
        seen = Seen.of(read_volume(folder))
        expected = stored().astype(np.float64) * SLOPE + INTERCEPT
        if not np.array_equal(seen.array, expected):
            raise ValueError("the undamaged series is read wrong")
        return seen

    def spoil(folder: Path, rng: Random) -> None:
        path = rng.choice(sorted(folder.iterdir()))
        path.write_bytes(dataset_damage(path.read_bytes(), rng))

    return Target(prepare, spoil, read_volume, judge, ("pydicom",), share=6)


DICOM = {
    "dicom": target(write_series, LITTLE),
    "dicom-implicit": target(write_series, IMPLICIT),
    "dicom-rle": target(write_series, RLE),
    "dicom-deflated": target(write_series, DEFLATED),
    "dicom-frames": target(write_frames, LITTLE),
}
