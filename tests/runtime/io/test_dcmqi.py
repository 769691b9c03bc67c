"""Segmentations between this project and dcmqi, which 3D Slicer reads and writes them with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset

from runtime import Volume, read_volume, write_mask
from runtime.io.dicom import read_segmentation
from runtime.io.dicom.seg import SEGMENTATION_TYPES, SegmentationOptions, write_segmentation
from tests.dicoms import AXIAL, OBLIQUE, SAGITTAL, save_series

dcmqi = pytest.importorskip("dcmqi", reason="dcmqi is not installed: make test-viewers")
PROGRAMS = Path(dcmqi.__file__).parent / "bin"
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
TISSUE = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}


def run(program: str, **arguments: Any) -> None:
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    subprocess.run([PROGRAMS / program, *words], check=True, capture_output=True)


@pytest.fixture(params=[AXIAL, SAGITTAL, CORONAL, OBLIQUE, UPSIDE_DOWN])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.FrameOfReferenceUID, dataset.PatientID = "1.2.826.0.1.9", "P7"

    names = ["3.dcm", "1.dcm", "4.dcm", "0.dcm", "2.dcm"]
    save_series(tmp_path / "in", edit, orientation=request.param, names=names)
    return read_volume(tmp_path / "in")


def some_labels(volume: Volume) -> np.ndarray:
    labels = np.random.default_rng(5).integers(0, 4, volume.shape).astype(np.uint8)
    labels[0] = 0
    return labels


def at_the_voxels(image: sitk.Image, volume: Volume) -> np.ndarray:
    """An image's values where the volume's voxels lie in the patient, 0 outside it."""
    array = sitk.GetArrayFromImage(image)
    found = np.zeros(volume.shape, array.dtype)
    for z, y, x in np.ndindex(volume.shape):
        point = (volume.affine @ (x, y, z, 1))[:3]
        index = image.TransformPhysicalPointToIndex(point.tolist())
        if all(0 <= i < size for i, size in zip(index, image.GetSize(), strict=True)):
            found[z, y, x] = array[index[::-1]]
    return found


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize("keeps", [False, True])
def test_dcmqi_reads_every_voxel_where_it_lies(
    kind: Any, keeps: bool, volume: Volume, tmp_path: Path
) -> None:
    labels = some_labels(volume)
    options = SegmentationOptions(type=kind, keeps_empty_frames=keeps)
    write_segmentation(tmp_path / "out.dcm", labels, volume, options)
    (tmp_path / "images").mkdir()
    run(
        "segimage2itkimage",
        inputDICOM=tmp_path / "out.dcm",
        outputDirectory=tmp_path / "images",
        outputType="nrrd",
    )
    images = [sitk.ReadImage(str(path)) for path in sorted((tmp_path / "images").glob("*.nrrd"))]
    if kind == "labelmap":
        (image,) = images
        assert np.array_equal(at_the_voxels(image, volume), labels)
        return
    for number, image in zip((1, 2, 3), images, strict=True):
        assert np.array_equal(at_the_voxels(image, volume) > 0, labels == number)


@pytest.mark.parametrize("skip", [0, 1])
def test_what_dcmqi_wrote_is_read(skip: int, volume: Volume, tmp_path: Path) -> None:
    labels = some_labels(volume)
    write_mask(tmp_path / "labels.nrrd", labels, like=volume)
    described = [
        {
            "labelID": number,
            "SegmentLabel": f"s{number}",
            "SegmentDescription": "one",
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": TISSUE,
            "SegmentedPropertyTypeCodeSequence": TISSUE,
        }
        for number in (1, 2, 3)
    ]
    about = {
        "ContentCreatorName": "x",
        "ClinicalTrialSeriesID": "1",
        "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "s",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "BodyPartExamined": "",
        "segmentAttributes": [described],
    }
    (tmp_path / "about.json").write_text(json.dumps(about))
    run(
        "itkimage2segimage",
        inputDICOMDirectory=tmp_path / "in",
        inputImageList=tmp_path / "labels.nrrd",
        inputMetadata=tmp_path / "about.json",
        outputDICOM=tmp_path / "out.dcm",
        skip=skip,
    )
    found = read_segmentation(tmp_path / "out.dcm", volume)
    assert list(found.names.values()) == ["s1", "s2", "s3"]
    assert np.array_equal(found.labels(), labels)
