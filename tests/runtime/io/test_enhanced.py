"""Enhanced objects, whose functional groups say where each frame lies, as highdicom and as pydicom write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from runtime.bundle.bundle import open_bundle
from runtime.cohort.find import find_studies
from runtime.cohort.outcome import StudyTask
from runtime.cohort.settings import Settings
from runtime.cohort.study import StudyPrompts
from runtime.cohort.worker import StudyWorker
from runtime.errors import SeriesError
from runtime.io import read_volume
from runtime.io.dicom.seg import check_segmentation, write_segmentation
from runtime.jobs.job import Job
from runtime.memory import MemoryRules
from tests.dicoms import (
    AXIAL,
    OBLIQUE,
    SAGITTAL,
    SPACING_ZYX_MM,
    decimals,
    group,
    normal,
    save_frames,
    save_series,
)
from tests.fakes import SEEING, fake_model

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
GROUPS = "PerFrameFunctionalGroupsSequence"
PER_FRAME = (
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)


def with_patient(dataset: Dataset, *_: Any) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "P7"


def converted(folder: Path, orientation: tuple[float, ...]) -> Path:
    """A CT series as one object, by highdicom, and the series itself in folder/series."""

    def edit(dataset: Dataset, index: int) -> None:
        with_patient(dataset)
        dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-1024"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber, dataset.SeriesNumber = str(index + 1), "1"
        for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Manufacturer"):
            setattr(dataset, keyword, "")
        dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
        dataset.SeriesDate, dataset.SeriesTime = "20240101", "120000"
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20240101", "120000"
        dataset.ContentDate, dataset.ContentTime = "20240101", "120000"
        dataset.PatientPosition, dataset.KVP = "HFS", "120"

    save_series(folder / "series", edit, orientation=orientation)
    slices = [dcmread(path) for path in sorted((folder / "series").iterdir())]
    shuffled = [slices[i] for i in (3, 0, 4, 1, 2)]
    made = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        shuffled, "1.2.826.0.1.77", 2, "1.2.826.0.1.77.1", 1
    )
    made.save_as(folder / "enhanced.dcm")
    return folder / "enhanced.dcm"


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, UPSIDE_DOWN])
def test_a_series_and_the_object_made_of_it_are_one_volume(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    path = converted(tmp_path, orientation)
    series, volume = read_volume(tmp_path / "series"), read_volume(path)
    np.testing.assert_array_equal(volume.array, series.array)
    assert volume.spacing_mm == pytest.approx(series.spacing_mm)
    assert volume.origin_mm == pytest.approx(series.origin_mm)
    assert volume.direction == pytest.approx(series.direction)
    assert volume.modality == "CT"

    labels = np.random.default_rng(2).integers(0, 3, volume.shape).astype(np.uint8)
    written = write_segmentation(tmp_path / "out.dcm", labels, volume)
    assert written.num_frames == 2 * len(labels)
    source = dcmread(path)
    positions_mm = [
        own.PlanePositionSequence[0].ImagePositionPatient for own in source[GROUPS].value
    ]
    along_mm = np.array(positions_mm, float) @ normal(orientation)
    found = highdicom.seg.segread(tmp_path / "out.dcm").get_pixels_by_source_frame(
        source.SOPInstanceUID, list(range(1, len(labels) + 1))
    )
    np.testing.assert_array_equal(found[np.argsort(along_mm)], labels[..., None] == [1, 2])


def turned(draw: st.DataObject) -> tuple[float, ...]:
    """Two perpendicular unit vectors in any direction, with six decimals."""
    seed = draw.draw(st.integers(0, 2**32 - 1))
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return tuple(float(v) for v in rotation[:, :2].T.ravel().round(6))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_frames_in_any_order_and_direction_are_put_where_they_lie(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is said of each frame or of all, and whatever they are rescaled by."""
    path = tmp_path_factory.mktemp("enhanced") / "a.dcm"
    orientation, count = turned(data), data.draw(st.integers(1, 7))
    steps = data.draw(st.permutations(range(count)))
    own = data.draw(st.sets(st.sampled_from(PER_FRAME)))
    scales = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    is_scaled_alike = "PixelValueTransformationSequence" not in own
    scales = [scales[0]] * count if is_scaled_alike else scales

    def edit(dataset: Dataset) -> None:
        with_patient(dataset)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        scaled = [scaling(scale) for scale in scales]
        shared.update(scaled[0])
        for index, frame in enumerate(dataset[GROUPS].value):
            content = {"FrameAcquisitionNumber": index, "DimensionIndexValues": [1, index + 1]}
            frame.update(group(FrameContentSequence=content))
            for keyword in own:
                is_scale = keyword == "PixelValueTransformationSequence"
                setattr(frame, keyword, (scaled[index] if is_scale else shared)[keyword].value)
        for keyword in own:
            del shared[keyword]

    array = save_frames(path, edit, steps=tuple(steps), orientation=orientation)
    volume, order = read_volume(path), np.argsort(steps)
    wanted = array * np.reshape(scales, (-1, 1, 1)) + 5
    np.testing.assert_array_equal(volume.array, wanted[order])
    axes = np.stack([orientation[:3], orientation[3:], normal(orientation)], axis=1)
    assert volume.direction == pytest.approx(axes.ravel(), abs=1e-5)
    assert volume.spacing_mm[1:] == pytest.approx(SPACING_ZYX_MM[1:])
    if count > 1:
        assert volume.spacing_mm[0] == pytest.approx(SPACING_ZYX_MM[0], abs=1e-4)
    assert [frame.number - 1 for frame in volume.frames] == order.tolist()


def scaling(slope: int) -> Dataset:
    return group(
        PixelValueTransformationSequence={
            "RescaleSlope": str(slope),
            "RescaleIntercept": "5",
            "RescaleType": "US",
        }
    )


def test_a_part_of_a_concatenation_is_no_volume(tmp_path: Path) -> None:
    """Which would look whole (PS3.3 C.7.6.16.1.1)."""

    def edit(dataset: Dataset) -> None:
        dataset.ConcatenationUID = "1.2.826.0.1.5"
        dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = 1, total

    for total in (1, 2):
        save_frames(tmp_path / f"{total}.dcm", edit)
    assert read_volume(tmp_path / "1.dcm").shape[0] == 4
    with pytest.raises(SeriesError, match=r"part 1 of 2 of a concatenation"):
        read_volume(tmp_path / "2.dcm")


@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_a_cohort_has_a_study_for_each_object(
    tmp_path: Path, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    studies, out = tmp_path / "studies", tmp_path / "out"
    for folder, names in (("", ("a", "b")), ("p1", ("only",))):
        (studies / folder).mkdir(exist_ok=True, parents=True)
        for name in names:
            save_frames(studies / folder / f"{name}.dcm", with_patient, steps=steps)
    (studies / "a.json").write_text("{}")
    found = {study.name: (study.path.name, study.asked.source) for study in find_studies(studies)}
    assert found == {
        "a": ("a.dcm", "file"),
        "b": ("b.dcm", "nothing"),
        "p1": ("p1", "nothing"),  # as any folder with one series
    }
    settings = Settings(
        Job(studies, out, [], MemoryRules()), open_bundle().fingerprint, "dicom-seg"
    )
    asked = StudyPrompts.of_rows([("1", "box", "1,0,2,0,2")])
    outcome = StudyWorker(settings, out).do(StudyTask(1, "b", studies / "b.dcm", asked))
    assert (outcome.exit_code, outcome.message) == (0, "")
    there = highdicom.seg.segread(out / "masks" / "b.dcm")
    source = dcmread(studies / "b.dcm")
    found_mask = there.get_pixels_by_source_frame(
        source.SOPInstanceUID, [1, 2, 3, 4], assert_missing_frames_are_empty=True
    )
    assert found_mask.sum() == outcome.told["objects"][0]["voxels"] > 0


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("PlanePositionSequence", "4 frames and 0 positions"),
        ("PlaneOrientationSequence", r"no usable orientation \(0020\|0037\)"),
        ("PixelMeasuresSequence", r"no usable pixel spacing \(0028\|0030\)"),
    ],
)
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_group_that_is_missing_is_named(
    tmp_path: Path, keyword: str, message: str, is_empty: bool
) -> None:
    def edit(dataset: Dataset) -> None:
        for item in (dataset.SharedFunctionalGroupsSequence[0], *dataset[GROUPS].value):
            if keyword in item and is_empty:
                setattr(item, keyword, [])
            elif keyword in item:
                delattr(item, keyword)

    save_frames(tmp_path / "a.dcm", edit)
    with pytest.raises(SeriesError, match=message):
        read_volume(tmp_path / "a.dcm")


def test_positions_of_all_frames_alike_are_no_volume(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        position = group(PlanePositionSequence={"ImagePositionPatient": decimals((1, 2, 3))})
        dataset.SharedFunctionalGroupsSequence[0].update(position)
        for frame in dataset[GROUPS].value:
            del frame.PlanePositionSequence

    save_frames(tmp_path / "a.dcm", edit)
    with pytest.raises(SeriesError, match="4 frames and 1 positions"):
        read_volume(tmp_path / "a.dcm")


def test_what_cannot_be_referred_to_is_known_before_anything_is_computed(tmp_path: Path) -> None:
    save_frames(tmp_path / "a.dcm")  # without a frame of reference
    with pytest.raises(SeriesError, match="Frame of Reference UID"):
        check_segmentation(read_volume(tmp_path / "a.dcm"))
