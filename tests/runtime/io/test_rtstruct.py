"""Masks as RT Structure Sets: read back by others, in every orientation, or not written at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from skimage.draw import polygon2mask

from runtime import Volume, read_volume, write_mask
from runtime.cohort.export import LabelledStudy, export_structures
from runtime.errors import InputError, Sam2Error, SeriesError
from runtime.io.dicom import rtstruct
from runtime.io.dicom.codes import Code
from runtime.io.dicom.rtstruct import check_structures, write_structures
from runtime.io.dicom.seg import SegmentationOptions
from tests.dicoms import AXIAL, OBLIQUE, SAGITTAL, SHAPE, save_frames, save_series


def with_identity(dataset: Dataset, *_: Any) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID = "Müller^Jane", "P7"
    dataset.AccessionNumber = "A\\7"  # which is two values, and so in the file


def a_series(folder: Path, orientation: tuple[float, ...] = AXIAL) -> Volume:
    save_series(folder, with_identity, orientation=orientation)
    return read_volume(folder)


def labels() -> np.ndarray:
    """A ring and what touches it with a corner, a single voxel, and an object on two slices."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 1:5, 1:5] = 2
    drawn[1, 2:4, 2:4] = 0
    drawn[1, 5, 5] = 2
    drawn[3, 0, 7] = 2
    drawn[2:4, 2:6, 0:3] = 7
    return drawn


def read_elsewhere(path: Path, volume: Volume) -> dict[str, np.ndarray]:
    """Masks by name as SimpleITK places points and scikit-image fills contours."""
    there, image = dcmread(path), volume.to_image()
    names = {roi.ROINumber: roi.ROIName for roi in there.StructureSetROISequence}
    masks = {}
    for roi in there.ROIContourSequence:
        mask = np.zeros(volume.shape, bool)
        for contour in roi.get("ContourSequence") or ():
            points_mm = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points_mm) == contour.NumberOfContourPoints
            points = np.array(
                [image.TransformPhysicalPointToContinuousIndex(p) for p in points_mm.tolist()]
            )
            (index,) = set(points[:, 2].round().astype(int).tolist())
            assert np.abs(points[:, 2] - index).max() < 1e-3
            mask[index] ^= polygon2mask(mask.shape[1:], points[:, 1::-1])
        masks[names[roi.ReferencedROINumber]] = mask
    return masks


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_others_read_every_voxel_where_it_was(
    orientation: tuple[float, ...], tmp_path: Path
) -> None:
    volume, path = a_series(tmp_path / "s", orientation), tmp_path / "a.rtstruct.dcm"
    write_mask(path, labels(), volume)
    masks = read_elsewhere(path, volume)
    assert [*masks] == ["Lesion 2", "Lesion 7"]
    for number, mask in zip((2, 7), masks.values(), strict=True):
        assert (mask == (labels() == number)).all()


def test_contours_are_on_their_images_of_the_same_patient(tmp_path: Path) -> None:
    volume, path = a_series(tmp_path / "s"), tmp_path / "a.rtstruct.dcm"
    code = Code("SCT", "10200004", "Liver")
    write_structures(path, labels(), volume, SegmentationOptions(code=code))
    there, source = dcmread(path), dcmread(tmp_path / "s" / "000.dcm")
    assert there.PatientName == "Müller^Jane" and there.SpecificCharacterSet == "ISO_IR 192"
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert there[keyword].value == source[keyword].value
    assert there.SeriesInstanceUID != source.SeriesInstanceUID
    assert there.Modality == "RTSTRUCT" and there.StructureSetLabel
    places = {
        str(d.SOPInstanceUID): d.ImagePositionPatient
        for d in map(dcmread, (tmp_path / "s").iterdir())
    }
    for roi in there.ROIContourSequence:
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            assert image.ReferencedSOPClassUID == source.SOPClassUID
            assert contour.ContourData[2] == pytest.approx(
                places[image.ReferencedSOPInstanceUID][2]
            )
    (concept,) = there.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence
    assert (concept.CodingSchemeDesignator, concept.CodeValue) == ("SCT", "10200004")
    study = there.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (series,) = study.RTReferencedSeriesSequence
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == places.keys()


def test_objects_may_overlap_and_one_may_be_found_nowhere(tmp_path: Path) -> None:
    class Objects:
        object_ids = (1, 2, 3)

        def mask(self, object_id: int) -> np.ndarray:
            return (labels() == 7) if object_id < 3 else np.zeros(SHAPE, bool)

        def labels(self) -> np.ndarray:
            return labels()

    volume, path = a_series(tmp_path / "s"), tmp_path / "a.rtstruct.dcm"
    write_mask(path, Objects(), volume)
    masks = [*read_elsewhere(path, volume).values()]
    assert (masks[0] == masks[1]).all() and masks[0].any() and not masks[2].any()


def test_frames_of_an_enhanced_object(tmp_path: Path) -> None:
    save_frames(tmp_path / "e.dcm", with_identity, steps=(3, 2, 1, 0))
    volume, path = read_volume(tmp_path / "e.dcm"), tmp_path / "a.rtstruct.dcm"
    drawn = np.zeros(volume.shape, np.uint8)
    drawn[1, 1:3, 2:5] = 1
    write_structures(path, drawn, volume)
    assert (read_elsewhere(path, volume)["Lesion 1"] == (drawn == 1)).all()
    (contour,) = dcmread(path).ROIContourSequence[0].ContourSequence
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 3


def test_the_same_work_is_the_same_object(tmp_path: Path) -> None:
    volume, uids = a_series(tmp_path / "s"), []
    for identity in ("x", "x", None, None):
        write_structures(tmp_path / "a.rtstruct.dcm", labels(), volume, identity=identity)
        uids.append(dcmread(tmp_path / "a.rtstruct.dcm").SOPInstanceUID)
    assert uids[0] == uids[1] and len({*uids}) == 3


def test_what_is_read_back_wrong_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, path = a_series(tmp_path / "s"), tmp_path / "a.rtstruct.dcm"
    right = rtstruct.outlines
    monkeypatch.setattr(rtstruct, "outlines", lambda plane: right(np.roll(plane, 1, 0)))
    with pytest.raises(Sam2Error, match="structure 1 is another on slice 1"):
        write_structures(path, labels(), volume)
    assert not path.exists()


def test_what_cannot_be_referred_to_is_refused_before_work(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "s")
    check_structures(volume)
    with pytest.raises(InputError, match="is one of the images themselves"):
        write_structures(tmp_path / "s" / "000.dcm", labels(), volume)
    with pytest.raises(InputError, match="wanted 1 to 65535"):
        write_structures(tmp_path / "a.rtstruct.dcm", np.zeros(SHAPE, np.uint8), volume)
    with pytest.raises(InputError, match="is not DICOM"):
        check_structures(Volume.from_array(np.zeros(SHAPE, np.uint8)))
    save_series(tmp_path / "n")
    with pytest.raises(SeriesError, match="no Frame of Reference UID"):
        check_structures(read_volume(tmp_path / "n"))


def test_accepted_labels_leave_as_structures(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "s")
    study = LabelledStudy("a/b", tmp_path / "s", volume, {n: labels() == n for n in (2, 7)})
    (path,) = export_structures(tmp_path / "out", study)
    assert path == tmp_path / "out" / "a" / "b.rtstruct.dcm"
    assert [*read_elsewhere(path, volume)] == ["Lesion 2", "Lesion 7"]


def test_points_are_placed_as_simpleitk_does(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "s", OBLIQUE)
    image = volume.to_image()
    assert isinstance(image, sitk.Image)
    there = rtstruct._placed(np.array([(1.5, 2.5, 3.0)]), volume.affine)[0]
    assert there == pytest.approx(image.TransformContinuousIndexToPhysicalPoint((1.5, 2.5, 3.0)))
