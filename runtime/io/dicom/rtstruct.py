"""Masks as an RT Structure Set (PS3.3 A.19): closed contours on the images they were made of, for planning systems.

pydicom writes it; contours are our own (`runtime.io.dicom.contours`). Libraries that make such files of masks lose
pixels (rt-utils 1.2.7 draws through the centres of border pixels), or do not fit in here (DicomRTTool is under the GPL,
plastimatch is a program of 66 MB); docs/dicom.md has the figures.
"""

from __future__ import annotations

import warnings
from datetime import datetime
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Sam2Error
from runtime.files.atomic import check_destination, write_whole
from runtime.io.dicom.codes import Code
from runtime.io.dicom.contours import filled, outlines
from runtime.io.dicom.seg import COLOURS, SERIES_NUMBERS, Algorithm, SegmentationOptions, refusals
from runtime.io.dicom.segments import HasMasks, Segments, as_segments
from runtime.io.dicom.sources import Sources, check_spares_images, read_sources
from runtime.io.dicom.uids import Uids
from runtime.io.volumes.volume import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LONG_STRING = 64
_DECIMALS = 4  # of a position in mm, which leaves room in a Decimal String's 16 letters
# Copied as they are: of the patient and the study.
_COPIED = (
    *("PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)


def check_structures(volume: Volume, options: SegmentationOptions | None = None) -> None:
    """See that a structure set of `volume` can be written, before work goes into it. Raises as the writing does."""
    first = np.zeros(volume.shape, np.uint8)
    first.flat[0] = 1
    options = options or SegmentationOptions()
    with refusals(volume):
        dataset = _make(Segments((1,), first), read_sources(volume), volume, options, Uids())
        _save(dataset, BytesIO())


def write_structures(
    path: str | PathLike[str],
    masks: HasMasks | NDArray[Any],
    like: Volume,
    options: SegmentationOptions | None = None,
    identity: str | None = None,
) -> None:
    """Write masks as an RT Structure Set of the images that `like` was read from.

    Each object is a structure, numbered from 1 by increasing id and called after its code and its id; objects may
    overlap. Contours go along the edges of pixels, so that their areas are those of the masks. The file appears whole
    or not at all, and only after its contours were read back, filled, and found to be the masks.

    Args:
        path: destination.
        masks: a result, or labels (z, y, x), uint8 or uint16, 0 outside.
        like: a volume that was read from DICOM.
        options: codes and what made the masks; the type of a segmentation has no meaning here.
        identity: as of `write_segmentation`.

    Raises InputError for a volume that is not from DICOM and for labels that do not fit or hold no object, SeriesError
    for images that cannot be referred to, and Sam2Error where the writing fails.
    """
    path, options = Path(path), options or SegmentationOptions()
    check_destination(path)
    check_spares_images(path, like)
    sources = read_sources(like)
    segments = as_segments(masks, True, like.shape, like.source)
    uids = Uids(identity and f"structures {identity} {options.algorithm.version}")
    with refusals(like):
        dataset = _make(segments, sources, like, options, uids)

    def check(part: Path) -> None:
        if wrong := _difference(part, segments, sources, like):
            raise Sam2Error(f"{path} could not be written: read back, {wrong}; is the disk full?")

    write_whole(path, lambda part: _save(dataset, part), check)


def _save(dataset: Dataset, part: Path | BytesIO) -> None:
    dataset.save_as(part, enforce_file_format=True)


def _make(
    segments: Segments,
    sources: Sources,
    like: Volume,
    options: SegmentationOptions,
    uids: Uids,
) -> Dataset:
    dataset = _without_structures(sources, options.algorithm, uids)
    for number, object_id in enumerate(segments.object_ids, 1):
        code = options.code_of(object_id)
        contours = _contours(segments, number, sources, like)
        dataset.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=dataset.FrameOfReferenceUID,
                ROIName=f"{code.meaning[: _LONG_STRING - 8]} {object_id}",
                ROIGenerationAlgorithm="SEMIAUTOMATIC",
                ROIGenerationDescription=_made_by(options.algorithm),
            )
        )
        dataset.ROIContourSequence.append(
            _item(
                ROIDisplayColor=list(COLOURS[(number - 1) % len(COLOURS)]),
                ReferencedROINumber=number,
                **({"ContourSequence": contours} if contours else {}),
            )
        )
        dataset.RTROIObservationsSequence.append(_observation(number, code))
    return dataset


def _without_structures(sources: Sources, algorithm: Algorithm, uids: Uids) -> Dataset:
    """A structure set of the images, before anything is in it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, RTStructureSetStorage

    first, now = sources.datasets[0], datetime.now()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = UID(uids.of("instance"))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _COPIED:
        setattr(dataset, keyword, _copied(first.get(keyword)))
    dataset.update(sources.dates)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = uids.of("series")
    dataset.SeriesNumber = SERIES_NUMBERS + max(0, int(first.get("SeriesNumber") or 0))
    dataset.SeriesDescription = f"Structures by {algorithm.model}"[:_LONG_STRING]
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.Manufacturer = algorithm.name[:_LONG_STRING]
    dataset.ManufacturerModelName = algorithm.model[:_LONG_STRING]
    dataset.SoftwareVersions = _made_by(algorithm)
    dataset.DeviceSerialNumber = algorithm.serial[:_LONG_STRING]
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetDate, dataset.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_referenced(sources)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    return dataset


def _made_by(algorithm: Algorithm) -> str:
    return f"{algorithm.name} {algorithm.version}"[:_LONG_STRING]


def _observation(number: int, code: Code) -> Dataset:
    """What a structure is."""
    identification = _item(
        CodeValue=code.value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning
    )
    return _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType="",
        ROIInterpreter="",
        RTROIIdentificationCodeSequence=[identification],
    )


def _copied(value: Any) -> str | list[str]:
    """A value, or several where a backslash within one has made them that."""
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        return [*map(str, value)]
    return "" if value is None else str(value)


def _referenced(sources: Sources) -> Dataset:
    """The images, by study and series."""
    first = sources.datasets[0]
    images = [
        _item(
            ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID
        )
        for header in sources.datasets
    ]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # as PS3.3 C.8.8.5 has it, long retired
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(segments: Segments, number: int, sources: Sources, like: Volume) -> list[Dataset]:
    """All of one object, slice by slice."""
    sop_class = sources.datasets[0].SOPClassUID
    has_frames = len(sources.datasets) < len(sources.references)
    items: list[Dataset] = []
    for index, (uid, frame) in enumerate(sources.references):
        for loop in outlines(segments.plane(number, index)):
            corners = np.array(loop, np.float64) - 0.5
            depth = np.full((len(corners), 1), index)
            points_mm = _placed(np.concatenate([corners, depth], 1), like.affine)
            image = _item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
            if has_frames:
                image.ReferencedFrameNumber = frame
            items.append(
                _item(
                    ContourImageSequence=[image],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(corners),
                    ContourNumber=len(items) + 1,
                    ContourData=[f"{value:.{_DECIMALS}f}" for value in points_mm.ravel()],
                )
            )
    return items


def _placed(points: NDArray[np.floating], affine: NDArray[np.floating]) -> NDArray[np.floating]:
    """Points (n, 3) moved by an affine (4, 4)."""
    placed: NDArray[np.floating] = points @ affine[:3, :3].T + affine[:3, 3]
    return placed


def _item(**values: Any) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _difference(part: Path, segments: Segments, sources: Sources, like: Volume) -> str:
    """What is wrong with a structure set in a file, or nothing."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings(action="ignore"):
            there = dcmread(part)
            first = sources.datasets[0]
            for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
                if str(there.get(keyword) or "") != str(first.get(keyword) or ""):
                    return f"its {keyword} is another"
            if len(there.ROIContourSequence) != len(segments.object_ids):
                return f"it has {len(there.ROIContourSequence)} structures"
            return _wrong_mask(there, segments, sources, like)
    except Exception as error:  # pydicom raises anything for a file that is cut short
        return f"it cannot be followed ({type(error).__name__}: {error})"


def _wrong_mask(there: Dataset, segments: Segments, sources: Sources, like: Volume) -> str:
    back = np.linalg.inv(like.affine)
    slice_of = {reference: index for index, reference in enumerate(sources.references)}
    for number, item in enumerate(there.ROIContourSequence, 1):
        lines: dict[int, list[NDArray[np.floating]]] = {}
        for contour in item.get("ContourSequence") or ():
            points = _placed(np.reshape(np.array(contour.ContourData, float), (-1, 3)), back)
            (image,) = contour.ContourImageSequence
            reference = (
                str(image.ReferencedSOPInstanceUID),
                int(image.get("ReferencedFrameNumber") or 1),
            )
            index = slice_of[reference]
            if np.abs(points[:, 2] - index).max() > 0.01:
                return f"a contour lies {points[0, 2]:.2f} slices from the first"
            lines.setdefault(index, []).append(points[:, :2])
        for index in range(len(sources.references)):
            plane = segments.plane(number, index)
            if not np.array_equal(filled(lines.get(index, ()), plane.shape), plane):
                return f"structure {number} is another on slice {index}"
    return ""
