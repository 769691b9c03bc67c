"""DICOM Segmentations read onto the volume that they belong to: this project's, highdicom's and damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from runtime import Volume, read_volume, write_mask
from runtime.errors import InputError, SeriesError, VolumeError
from runtime.io.dicom import read_segmentation
from runtime.io.dicom.codes import Code
from runtime.io.dicom.seg import SEGMENTATION_TYPES, SegmentationOptions, write_segmentation
from tests.dicoms import AXIAL, OBLIQUE, SAGITTAL, SHAPE, bundled, save_series


def in_its_frame(dataset: Dataset, index: int) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"):
        setattr(dataset, keyword, "")
    dataset.AccessionNumber = dataset.StudyDate = dataset.StudyTime = ""


def a_volume(folder: Path, orientation: tuple[float, ...] = AXIAL) -> Volume:
    save_series(folder, in_its_frame, orientation=orientation, names=["4", "2", "0", "1", "3"])
    return read_volume(folder)


def some_labels() -> np.ndarray:
    labels = np.random.default_rng(5).integers(0, 4, SHAPE).astype(np.uint8)
    labels[1] = 0
    return labels


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize("keeps", [False, True])
def test_what_was_written_is_read(
    orientation: tuple[float, ...], kind: Any, keeps: bool, tmp_path: Path
) -> None:
    volume, labels = a_volume(tmp_path / "in", orientation), some_labels()
    options = SegmentationOptions(
        Code("SCT", "1", "Leber, groß"), type=kind, keeps_empty_frames=keeps
    )
    write_segmentation(tmp_path / "out.dcm", labels, volume, options)
    found = read_segmentation(tmp_path / "out.dcm", volume)
    assert found.object_ids == (1, 2, 3)
    assert found.names[2] == "Leber, groß 2"
    for number in found.object_ids:
        assert dice(found.mask(number), labels == number) == 1
    assert np.array_equal(found.labels(), labels)
    write_mask(tmp_path / "out.nrrd", found, like=volume)
    assert np.array_equal(read_volume(tmp_path / "out.nrrd").array, labels)
    write_mask(tmp_path / "again.dcm", found, like=volume)
    assert np.array_equal(read_segmentation(tmp_path / "again.dcm", volume).labels(), labels)


class Overlapping:
    object_ids = (1, 2)

    def mask(self, object_id: int) -> np.ndarray:
        return some_labels() >= object_id

    def labels(self) -> np.ndarray:
        return np.zeros(SHAPE, np.uint8)


def test_segments_may_overlap(tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in")
    write_mask(tmp_path / "out.dcm", Overlapping(), like=volume)
    found = read_segmentation(tmp_path / "out.dcm", volume)
    assert np.array_equal(found.mask(1), some_labels() >= 1)
    assert np.array_equal(found.mask(2), some_labels() >= 2)
    with pytest.raises(InputError, match="segment 2 overlaps another on slice 0"):
        found.labels()
    with pytest.raises(InputError, match=r"no segment 3; there are: \[1, 2\]"):
        found.mask(3)


def by_highdicom(volume: Volume, path: Path, kind: str, **more: Any) -> None:
    """The same labels in a file of another writer, frames in the order of file names."""
    sources = [dcmread(file) for file in sorted({frame.path for frame in volume.frames})]
    order = [
        next(z for z, f in enumerate(volume.frames) if f.path.name == name) for name in "01234"
    ]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "x", codes.cid7162.ArtificialIntelligence, "1"
    )
    described = [
        highdicom.seg.SegmentDescription(
            number, f"s{number}", codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm
        )
        for number in (1, 2, 3)
    ]
    pixels = some_labels()[order]
    if kind == "FRACTIONAL":
        pixels = (pixels[..., None] == [1, 2, 3]).astype(np.float32) / 2
    highdicom.seg.Segmentation(
        sources,
        pixels,
        kind,
        described,
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "x",
        "x",
        "x",
        "x",
        **more,
    ).save_as(path)


@pytest.mark.parametrize(
    ("kind", "more"),
    [("BINARY", {}), ("LABELMAP", {}), ("LABELMAP", {"transfer_syntax_uid": RLELossless})],
)
def test_what_highdicom_wrote_is_read(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in", SAGITTAL)
    by_highdicom(volume, tmp_path / "out.dcm", kind, **more)
    found = read_segmentation(tmp_path / "out.dcm", volume)
    assert np.array_equal(found.labels(), some_labels())
    assert list(found.names.values()) == ["s1", "s2", "s3"]


def test_probabilities_are_refused(tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in")
    by_highdicom(volume, tmp_path / "out.dcm", "FRACTIONAL")
    with pytest.raises(SeriesError, match="type FRACTIONAL; wanted BINARY or LABELMAP"):
        read_segmentation(tmp_path / "out.dcm", volume)


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in")
    with pytest.raises(SeriesError, match="is no DICOM Segmentation"):
        read_segmentation(tmp_path / "in" / "0", volume)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SeriesError, match="it is no DICOM"):
        read_segmentation(tmp_path / "notes.txt", volume)
    with pytest.raises(SeriesError, match="frames of"):
        read_segmentation(bundled("liver_1frame.dcm"), volume)


def edited(path: Path, edit: Callable[[Dataset], None]) -> None:
    dataset = dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def first_frame(dataset: Dataset) -> Dataset:
    frame: Dataset = dataset.PerFrameFunctionalGroupsSequence[0]
    return frame


def shift(dataset: Dataset) -> None:
    first_frame(dataset).PlanePositionSequence[0].ImagePositionPatient[0] += 0.6


def leave(dataset: Dataset) -> None:
    first_frame(dataset).PlanePositionSequence[0].ImagePositionPatient[2] += (
        5  # frames are sorted downwards
    )


def repeat(dataset: Dataset) -> None:
    second = dataset.PerFrameFunctionalGroupsSequence[1]
    second.PlanePositionSequence = first_frame(dataset).PlanePositionSequence


def turn(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def enlarge(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.7, 0.7]


def undescribe(dataset: Dataset) -> None:
    del dataset.SegmentSequence[-1]


def elsewhere(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2"


def cut(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-30]


DAMAGE = [
    (shift, "on no slice of"),
    (leave, "on slice 6 of"),
    (repeat, "two frames of"),
    (turn, "on no slice of"),
    (enlarge, "on no slice of"),
    (undescribe, "segment 3 and does not describe it"),
    (elsewhere, "frame of reference 1.2; wanted 1.2.826.0.1.9"),
    (cut, "cut short or damaged"),
]


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize(("edit", "message"), DAMAGE)
def test_what_does_not_fit_is_refused(
    kind: Any, edit: Callable[[Dataset], None], message: str, tmp_path: Path
) -> None:
    volume = a_volume(tmp_path / "in")
    options = SegmentationOptions(type=kind)
    write_segmentation(tmp_path / "out.dcm", some_labels(), volume, options)
    edited(tmp_path / "out.dcm", edit)
    with pytest.raises(SeriesError, match=message):
        read_segmentation(tmp_path / "out.dcm", volume)


def share(dataset: Dataset, keywords: tuple[str, ...]) -> None:
    """Say once what all frames say alike, as writers of a single slice do."""
    own, shared = dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    for keyword in keywords:
        shared[0][keyword] = own[0][keyword]
        for frame in own:
            del frame[keyword]


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
def test_segments_of_one_slice_may_share_its_position(kind: Any, tmp_path: Path) -> None:
    save_series(tmp_path / "in", in_its_frame, depth=1)
    volume, labels = read_volume(tmp_path / "in"), some_labels()[:1]
    write_segmentation(tmp_path / "out.dcm", labels, volume, SegmentationOptions(type=kind))
    edited(tmp_path / "out.dcm", lambda dataset: share(dataset, ("PlanePositionSequence",)))
    assert np.array_equal(read_segmentation(tmp_path / "out.dcm", volume).labels(), labels)


def test_one_frame_may_say_everything_in_the_shared_groups(tmp_path: Path) -> None:
    save_series(tmp_path / "in", in_its_frame, depth=1)
    volume = read_volume(tmp_path / "in")
    labels = some_labels()[:1] // 3
    write_mask(tmp_path / "out.dcm", labels, like=volume)

    def share_all(dataset: Dataset) -> None:
        share(dataset, tuple(e.keyword for e in dataset.PerFrameFunctionalGroupsSequence[0]))
        del dataset.PerFrameFunctionalGroupsSequence

    edited(tmp_path / "out.dcm", share_all)
    assert np.array_equal(read_segmentation(tmp_path / "out.dcm", volume).labels(), labels)


def test_a_frame_without_a_segment_is_refused(tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in")
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)

    def forget(dataset: Dataset) -> None:
        del first_frame(dataset).SegmentIdentificationSequence

    edited(tmp_path / "out.dcm", forget)
    with pytest.raises(SeriesError, match="which segment"):
        read_segmentation(tmp_path / "out.dcm", volume)


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
def test_a_file_cut_anywhere_is_refused(kind: Any, tmp_path: Path) -> None:
    volume = a_volume(tmp_path / "in")
    options = SegmentationOptions(type=kind)
    write_segmentation(tmp_path / "out.dcm", some_labels(), volume, options)
    data = (tmp_path / "out.dcm").read_bytes()
    for length in range(0, len(data) - 2, len(data) // 40):
        (tmp_path / "cut.dcm").write_bytes(data[:length])
        with pytest.raises((SeriesError, VolumeError)):
            read_segmentation(tmp_path / "cut.dcm", volume)
