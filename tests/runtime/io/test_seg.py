"""Masks as DICOM Segmentations: read back by pydicom and by highdicom, on the right images, or not written at all."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from runtime import Volume, read_volume, write_mask
from runtime.errors import InputError, MissingPackage, Sam2Error, SeriesError
from runtime.io.dicom import read_segmentation, seg
from runtime.io.dicom.codes import ABNORMAL, LESION, Code
from runtime.io.dicom.seg import (
    SEGMENTATION_TYPES,
    Algorithm,
    SegmentationOptions,
    check_segmentation,
    write_segmentation,
)
from tests.dicoms import (
    AXIAL,
    OBLIQUE,
    OTHER_SERIES,
    SAGITTAL,
    SHAPE,
    decimals,
    group,
    normal,
    save_frames,
    save_series,
)

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
NAMES = {
    "in order": ["0.dcm", "1.dcm", "2.dcm", "3.dcm", "4.dcm"],
    "reversed": ["4.dcm", "3.dcm", "2.dcm", "1.dcm", "0.dcm"],
    "shuffled": ["3.dcm", "0.dcm", "4.dcm", "1.dcm", "2.dcm"],
}


class Objects:
    """Masks by object id, as a result has them; the higher id wins where they overlap."""

    def __init__(self, masks: dict[int, np.ndarray]) -> None:
        self.masks = masks

    @property
    def object_ids(self) -> Sequence[int]:
        return sorted(self.masks)

    def mask(self, object_id: int) -> np.ndarray:
        return self.masks[object_id]

    def labels(self) -> np.ndarray:
        labels = np.zeros(next(iter(self.masks.values())).shape, np.uint16)
        for object_id in self.object_ids:
            labels[self.masks[object_id]] = object_id
        return labels


def with_frame_of_reference(dataset: Dataset, *_: Any) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "P7"


def a_series(folder: Path, orientation: tuple[float, ...] = AXIAL, **more: Any) -> Volume:
    save_series(folder, with_frame_of_reference, orientation=orientation, **more)
    return read_volume(folder)


def some_labels(shape: tuple[int, ...] = SHAPE, count: int = 3) -> np.ndarray:
    """All objects on all slices but the second, which is empty."""
    labels = np.random.default_rng(5).integers(0, count + 1, shape).astype(np.uint8)
    labels[1] = 0
    return labels


def overlapping(shape: tuple[int, ...] = SHAPE) -> Objects:
    noise = np.random.default_rng(6)
    masks = {object_id: noise.random(shape) < 0.4 for object_id in (2, 5, 300)}
    masks[5][:3] = False
    assert (masks[2] & masks[300]).any()
    return Objects(masks)


def masks_of(path: Path, references: Sequence[str]) -> np.ndarray:
    """What highdicom reads: (z, y, x, segment), by the source images in this order."""
    return np.asarray(
        highdicom.seg.segread(path).get_pixels_by_source_instance(
            list(references), assert_missing_frames_are_empty=True
        )
    )


def instances(volume: Volume) -> list[str]:
    return [str(dcmread(frame.path).SOPInstanceUID) for frame in volume.frames]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, UPSIDE_DOWN])
def test_frames_are_on_their_images_in_every_orientation(
    orientation: tuple[float, ...], names: list[str], tmp_path: Path
) -> None:
    volume = a_series(tmp_path / "in", orientation, names=names)
    labels = some_labels()
    write_mask(tmp_path / "out.dcm", labels, like=volume)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert np.array_equal(found, labels[..., None] == [1, 2, 3])
    # By what the file says of its frames, without looking at references.
    there = dcmread(tmp_path / "out.dcm")
    for own, frame in zip(there.PerFrameFunctionalGroupsSequence, there.pixel_array, strict=True):
        offset_mm = own.PlanePositionSequence[0].ImagePositionPatient - np.array(volume.origin_mm)
        index = round(float(offset_mm @ normal(orientation)) / volume.spacing_mm[0])
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(frame.astype(bool), labels[index] == number)
    shared = there.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == pytest.approx(
        orientation, abs=1e-6
    )
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == pytest.approx(2.5, rel=1e-6)


def test_the_geometry_is_that_of_the_volume(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in", OBLIQUE, names=NAMES["shuffled"])
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    there = highdicom.seg.segread(tmp_path / "out.dcm").get_volume(combine_segments=True)
    # highdicom's axes are (slice, row, column), as those of this project's arrays.
    corners = np.array([[z, y, x] for z in (0, 4) for y in (0, 5) for x in (0, 7)])
    here = corners[:, ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.sort(there.array.ravel()).tolist() == np.sort(some_labels().ravel()).tolist()
    indices = np.rint(there.map_reference_to_indices(here)).astype(int)
    for (z, y, x), index in zip(corners, indices, strict=True):
        assert there.array[tuple(index)] == some_labels()[z, y, x]


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize("keeps", [False, True])
def test_both_types_with_and_without_empty_frames(kind: Any, keeps: bool, tmp_path: Path) -> None:
    volume, labels = a_series(tmp_path / "in"), some_labels()
    options = SegmentationOptions(type=kind, keeps_empty_frames=keeps)
    written = write_segmentation(tmp_path / "out.dcm", labels, volume, options)
    slices = 5 if keeps else 4
    assert written.num_frames == slices * (3 if kind == "binary" else 1)
    there = dcmread(tmp_path / "out.dcm")
    assert there.SegmentationType == kind.upper()
    assert int(there.NumberOfFrames) == written.num_frames
    assert there.SOPInstanceUID == written.sop_instance
    assert there.SeriesInstanceUID == written.series
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert np.array_equal(found, labels[..., None] == [1, 2, 3])


def test_objects_overlap_in_binary_and_are_told_apart_in_a_labelmap(tmp_path: Path) -> None:
    volume, objects = a_series(tmp_path / "in", names=NAMES["reversed"]), overlapping()
    written = write_segmentation(tmp_path / "out.dcm", objects, volume)
    assert written.object_ids == (2, 5, 300)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    for index, mask in enumerate(objects.masks.values()):
        assert np.array_equal(found[..., index], mask)
    assert dcmread(tmp_path / "out.dcm").SegmentsOverlap == "YES"
    write_segmentation(tmp_path / "map.dcm", objects, volume, SegmentationOptions(type="labelmap"))
    found = masks_of(tmp_path / "map.dcm", instances(volume))
    assert np.array_equal(found, objects.labels()[..., None] == [2, 5, 300])


def test_one_object_that_was_found_nowhere_is_a_segment_without_a_voxel(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    masks = {1: np.zeros(SHAPE, bool), 2: some_labels() == 1}
    write_mask(tmp_path / "out.dcm", Objects(masks), like=volume)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert not found[..., 0].any()
    assert np.array_equal(found[..., 1], masks[2])
    write_mask(tmp_path / "empty.dcm", Objects({1: masks[1]}), like=volume)
    assert not masks_of(tmp_path / "empty.dcm", instances(volume)).any()


@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize("is_shared", [True, False])
def test_frames_of_an_enhanced_object(
    steps: tuple[int, ...], kind: Any, is_shared: bool, tmp_path: Path
) -> None:
    def edit(dataset: Dataset) -> None:
        with_frame_of_reference(dataset)
        if not is_shared:
            shared = dataset.SharedFunctionalGroupsSequence[0]
            for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
                for own in dataset.PerFrameFunctionalGroupsSequence:
                    setattr(own, name, shared[name].value)
                del shared[name]

    save_frames(tmp_path / "in.dcm", edit, steps=steps, orientation=SAGITTAL)
    volume = read_volume(tmp_path / "in.dcm")
    labels = some_labels(volume.shape)
    options = SegmentationOptions(type=kind)
    write_segmentation(tmp_path / "out.dcm", labels, volume, options)
    source = dcmread(tmp_path / "in.dcm")
    found = highdicom.seg.segread(tmp_path / "out.dcm").get_pixels_by_source_frame(
        source.SOPInstanceUID, [1, 2, 3, 4], assert_missing_frames_are_empty=True
    )
    assert np.array_equal(found, (labels[..., None] == [1, 2, 3])[list(steps)])


def test_the_same_work_is_the_same_object(tmp_path: Path) -> None:
    """All of it but when it was made."""
    volume = a_series(tmp_path / "in")

    def written(identity: str | None, version: str = "1") -> Dataset:
        options = SegmentationOptions(algorithm=Algorithm(version=version))
        write_segmentation(tmp_path / "out.dcm", some_labels(), volume, options, identity)
        dataset = dcmread(tmp_path / "out.dcm")
        for keyword in ("Content", "InstanceCreation"):
            del dataset[f"{keyword}Date"], dataset[f"{keyword}Time"]
        del dataset.ContributingEquipmentSequence[0].ContributionDateTime
        return dataset

    first, again = written("a"), written("a")
    assert first == again
    others = [written("b"), written("a", version="2"), written(None), written(None)]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uids = [dataset[keyword].value for dataset in (first, *others)]
        assert len(set(uids)) == len(uids)
        assert all(uid.is_valid for uid in uids)


@pytest.mark.parametrize("syntax", [RLELossless, ExplicitVRBigEndian])
def test_sources_in_other_transfer_syntaxes(syntax: str, tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        if syntax == RLELossless:
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
            dataset.compress(RLELossless)

    save_series(tmp_path / "in", edit, transfer_syntax=syntax)
    volume = read_volume(tmp_path / "in")
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    assert dcmread(tmp_path / "out.dcm").PatientID == "P7"


def test_patient_and_study_are_the_sources_and_nothing_is_made_up(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName, dataset.PatientID = "Müller^Jörg", "ä1"
        dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
        dataset.StudyDate, dataset.StudyDescription = "20200102", "Thorax größer"
        dataset.SeriesNumber = "4"
        dataset.add_new(0x00091001, "LO", "private")

    save_series(tmp_path / "in", edit)
    write_mask(tmp_path / "out.dcm", some_labels(), like=read_volume(tmp_path / "in"))
    there = dcmread(tmp_path / "out.dcm")
    assert (str(there.PatientName), there.PatientID) == ("Müller^Jörg", "ä1")
    assert (there.StudyDate, there.StudyDescription) == ("20200102", "Thorax größer")
    assert there.StudyInstanceUID == "1.2.826.0.1"
    assert there.FrameOfReferenceUID == "1.2.826.0.1.9"
    assert there.SeriesInstanceUID != "1.2.826.0.1.1"
    assert there.SeriesNumber == 1004
    assert 0x00091001 not in there
    empty = "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "ContentCreatorName"
    assert all(not there[keyword].value for keyword in empty)


def test_dates_are_as_they_are_in_the_images(tmp_path: Path) -> None:
    """Also where they are none, as what anonymisers leave."""
    dates = {
        "PatientBirthDate": "00000000",
        "StudyDate": "2020-01-02",
        "StudyTime": "101010.1234567",
    }

    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        for keyword, value in dates.items():
            vr = dictionary_VR(keyword)
            dataset.add(DataElement(keyword, vr, value, validation_mode=IGNORE))

    save_series(tmp_path / "in", edit)
    volume = read_volume(tmp_path / "in")
    for name in ("out.dcm", "out.rtstruct.dcm"):
        write_mask(tmp_path / name, some_labels(), like=volume)
        there = dcmread(tmp_path / name)
        assert {keyword: there[keyword].value for keyword in dates} == dates


def test_codes_algorithm_and_labels(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    options = SegmentationOptions(
        code=Code.parse("SCT:10200004:Leber, groß"),
        category=Code.parse("SCT:91723000:Anatomical Structure"),
        algorithm=Algorithm("ours", "3", "net" * 40, "f" * 64, {"backend": "ort, threads=2"}),
    )
    write_segmentation(tmp_path / "out.dcm", some_labels(count=2), volume, options)
    there = highdicom.seg.segread(tmp_path / "out.dcm")
    first, second = there.SegmentSequence
    assert first.segmented_property_type.meaning == "Leber, groß"
    assert first.segmented_property_category.value == "91723000"
    assert (first.segment_label, second.segment_label) == ("Leber, groß 1", "Leber, groß 2")
    assert first.algorithm_type.value == "SEMIAUTOMATIC"
    algorithm = first.algorithm_identification
    assert (algorithm.name, algorithm.version) == ("ours", "3")
    assert algorithm.parameters == {"backend": "ort; threads:2"}
    assert first.tracking_uid != second.tracking_uid
    assert first.RecommendedDisplayCIELabValue != second.RecommendedDisplayCIELabValue
    assert there.DeviceSerialNumber == "f" * 64
    assert len(there.ManufacturerModelName) == 64
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    segment = highdicom.seg.segread(tmp_path / "out.dcm").SegmentSequence[0]
    assert segment.segmented_property_type.value == LESION.value
    assert segment.segmented_property_category.value == ABNORMAL.value


def test_the_defaults_are_in_dicoms_lists() -> None:
    from pydicom.sr.codedict import codes

    for code, group_of in (
        (LESION, codes.cid7159),
        (LESION, codes.cid7151),
        (ABNORMAL, codes.cid7150),
    ):
        known = {
            (each.scheme_designator, each.value, each.meaning)
            for each in group_of.concepts.values()
        }
        assert (code.scheme, code.value, code.meaning) in known


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SCT",
        "SCT:1",
        "SCT::x",
        ":1:x",
        "SCT:1: ",
        f"SCT:{'1' * 17}:x",
        "SCT:1:a\\b",
        "S:1:a\nb",
    ],
)
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="SCT:52988006:Lesion"):
        Code.parse(text)


def test_a_meaning_may_hold_colons() -> None:
    assert Code.parse(" DCM : 1 : a: b ") == Code("DCM", "1", "a: b")
    assert str(LESION) == "SCT:52988006:Lesion"


def test_what_is_not_dicom_has_no_images_to_refer_to(tmp_path: Path) -> None:
    volume = Volume.from_array(np.zeros(SHAPE, np.int16))
    with pytest.raises(InputError, match=r"is not DICOM, and .* refers to the images"):
        write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    with pytest.raises(InputError, match="is not DICOM"):
        check_segmentation(volume)
    assert not list(tmp_path.iterdir())


def remove(keyword: str) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        if index == 2:
            delattr(dataset, keyword)

    return edit


def other(keyword: str, value: str) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        if index in (2, 3):
            setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove("FrameOfReferenceUID"), r"no Frame of Reference UID \(0020\|0052\)"),
        (remove("SOPInstanceUID"), r"no SOP Instance UID"),
        (other("SOPInstanceUID", "1.2.x"), "'1.2.x' as SOP Instance UID"),
        (other("StudyInstanceUID", "1.2"), "another Study Instance UID"),
        (other("SOPInstanceUID", "1.2"), "share a SOP Instance UID"),
    ],
)
def test_images_that_cannot_be_referred_to(edit: Any, message: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # pydicom's, of what is no UID
        save_series(tmp_path / "in", edit)
    volume = read_volume(tmp_path / "in")
    for attempt in (
        lambda: check_segmentation(volume),
        lambda: write_mask(tmp_path / "out.dcm", some_labels(), like=volume),
    ):
        with pytest.raises(SeriesError, match=message):
            attempt()
    assert not (tmp_path / "out.dcm").exists()


def test_what_highdicom_refuses_is_told(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        dataset.PatientSex = "X"

    save_series(tmp_path / "in", edit)
    with pytest.raises(SeriesError, match=r"cannot be referred to .*'X'"):
        check_segmentation(read_volume(tmp_path / "in"))


def test_slices_whose_orientations_differ_in_the_last_decimal(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        if index % 2:
            dataset.ImageOrientationPatient = decimals((1, 0.00002, 0, 0, 1, 0))
        del dataset.SliceThickness

    save_series(tmp_path / "in", edit)
    volume = read_volume(tmp_path / "in")
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert np.array_equal(found, some_labels()[..., None] == [1, 2, 3])


@pytest.mark.parametrize(("height", "width"), [(5, 7), (5, 3), (3, 7), (2, 7)])
def test_frames_that_end_within_a_byte(tmp_path: Path, height: int, width: int) -> None:
    def cut(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        pixels = dataset.pixel_array[:height, :width]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()

    save_series(tmp_path / "in", cut)
    volume = read_volume(tmp_path / "in")
    labels = np.random.default_rng(5).integers(1, 4, volume.shape).astype(np.uint8)
    labels[0].flat[-3:] = 1, 2, 3
    write_mask(tmp_path / "out.dcm", labels, like=volume)
    there = dcmread(tmp_path / "out.dcm")
    frames = there.pixel_array  # all at once, of which pydicom loses nothing
    assert frames.shape[1:] == (height, width)
    assert frames.sum() == labels.size
    assert np.array_equal(read_segmentation(tmp_path / "out.dcm", volume).labels(), labels)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 1), (2, 4)])
@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
def test_frames_of_less_than_a_byte_are_refused_before_any_work_or_kept(
    kind: Any, height: int, width: int, tmp_path: Path
) -> None:
    def shrink(dataset: Dataset, index: int) -> None:
        with_frame_of_reference(dataset)
        dataset.Rows, dataset.Columns = height, width
        dataset.PixelData = bytes(2 * height * width)

    save_series(tmp_path / "in", shrink)
    volume, options = read_volume(tmp_path / "in"), SegmentationOptions(type=kind)
    labels = np.zeros(volume.shape, np.uint8)
    labels[1:, -1, -1] = 1
    out = tmp_path / "out.dcm"
    if kind == "binary" and height * width < 8:
        for write in (
            lambda: check_segmentation(volume, options),
            lambda: write_segmentation(out, labels, volume, options),
        ):
            with pytest.raises(SeriesError, match=f"{height} x {width} pixels.*labelmap"):
                write()
        assert not out.exists()
        return
    check_segmentation(volume, options)
    write_segmentation(out, labels, volume, options)
    assert np.array_equal(read_segmentation(out, volume).labels(), labels)


def test_a_single_slice(tmp_path: Path) -> None:
    save_series(tmp_path / "in", with_frame_of_reference, depth=1)
    volume = read_volume(tmp_path / "in" / "000.dcm")
    labels = some_labels()[:1]
    write_mask(tmp_path / "out.dcm", labels, like=volume)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert np.array_equal(found, labels[..., None] == [1, 2, 3])


def test_files_beside_the_series(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save_series(
        folder, with_frame_of_reference, series=OTHER_SERIES, depth=3, names=["x", "y", "z"]
    )
    save_series(folder, with_frame_of_reference, names=NAMES["reversed"])
    (folder / "notes.txt").write_text("nothing")
    volume = read_volume(folder, series="1.2.826.0.1.1")
    write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    found = masks_of(tmp_path / "out.dcm", instances(volume))
    assert np.array_equal(found, some_labels()[..., None] == [1, 2, 3])
    (folder / "2.dcm").write_bytes((folder / "2.dcm").read_bytes()[:300])
    with pytest.raises(SeriesError, match=r"2\.dcm cannot be read as DICOM"):
        write_mask(tmp_path / "out.dcm", some_labels(), like=volume)


def test_a_frame_of_reference_that_changed_since_it_was_read(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    dataset = dcmread(tmp_path / "in" / "003.dcm")
    dataset.FrameOfReferenceUID = "1.2"
    dataset.save_as(tmp_path / "in" / "003.dcm")
    with pytest.raises(SeriesError, match="another Frame of Reference UID"):
        check_segmentation(volume)


def test_files_that_changed_since_they_were_read(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    for index in range(5):
        (tmp_path / "in" / f"{index:03}.dcm").rename(tmp_path / f"{4 - index:03}.dcm")
    for path in tmp_path.glob("*.dcm"):
        path.rename(tmp_path / "in" / path.name)
    with pytest.raises(SeriesError, match="does not lie where its volume does"):
        write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    cropped = replace(volume, array=volume.array[1:])
    with pytest.raises(InputError, match="found 4 slices of 5 frames"):
        write_mask(tmp_path / "out.dcm", some_labels()[1:], like=cropped)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(SHAPE, np.uint8), "found 0 objects"),
        (np.ones(SHAPE, np.int32), "dtype int32"),
        (np.ones((4, 6, 8), np.uint8), r"shape \(4, 6, 8\)"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        write_mask(tmp_path / "out.dcm", labels, like=volume)
    wrong = Objects({1: np.ones((4, 6, 8), bool)})
    with pytest.raises(InputError, match="shape"):
        write_mask(tmp_path / "out.dcm", wrong, like=volume)


def test_an_image_is_not_written_over(tmp_path: Path) -> None:
    volume = a_series(tmp_path / "in")
    before = volume.frames[2].path.read_bytes()
    with pytest.raises(InputError, match="one of the images themselves"):
        write_mask(volume.frames[2].path, some_labels(), like=volume)
    assert volume.frames[2].path.read_bytes() == before


def test_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="wanted binary, labelmap"):
        SegmentationOptions(type="fractional")  # type: ignore[arg-type]


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = a_series(tmp_path / "in")
    (tmp_path / "out.dcm").write_text("older")

    def fail(self: Dataset, part: Path, *args: Any, **kwargs: Any) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_as", fail)
    with pytest.raises(Sam2Error, match="No space left on device"):
        write_mask(tmp_path / "out.dcm", some_labels(), like=volume)
    assert (tmp_path / "out.dcm").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out.dcm"}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def edited(edit: Callable[[Dataset], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        dataset = dcmread(path)
        edit(dataset)
        dataset.save_as(path)

    return change


def swap_sources(dataset: Dataset) -> None:
    first, second = (dataset.PerFrameFunctionalGroupsSequence[i] for i in (0, 1))
    first.DerivationImageSequence, second.DerivationImageSequence = (
        second.DerivationImageSequence,
        first.DerivationImageSequence,
    )


def move(dataset: Dataset) -> None:
    own = dataset.PerFrameFunctionalGroupsSequence[0]
    own.PlanePositionSequence[0].ImagePositionPatient[2] += 1


def flip_a_bit(dataset: Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]


def drop_the_last(dataset: Dataset) -> None:
    frames = dataset.pixel_array[:-1]
    dataset.NumberOfFrames = len(frames)
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    is_binary = dataset.SegmentationType == "BINARY"
    data = np.packbits(frames.ravel(), bitorder="little") if is_binary else frames
    dataset.PixelData = data.tobytes().ljust(-(-data.size // 2) * 2, b"\0")


def rename_patient(dataset: Dataset) -> None:
    dataset.PatientID = "another"


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
@pytest.mark.parametrize(
    "damage",
    [cut_short, *map(edited, (swap_sources, move, flip_a_bit, drop_the_last, rename_patient))],
    ids=["cut short", "sources", "place", "a bit", "a frame", "patient"],
)
def test_what_is_read_back_wrong_gets_no_name(
    kind: Any, damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_series(tmp_path / "in")
    real = seg.write_whole

    def damaging(path: Path, write: Any, check: Any) -> None:
        def write_damaged(part: Path) -> None:
            write(part)
            damage(part)

        real(path, write_damaged, check)

    monkeypatch.setattr(seg, "write_whole", damaging)
    with pytest.raises(Sam2Error, match="could not be written: read back, "):
        write_segmentation(
            tmp_path / "out.dcm", some_labels(), volume, SegmentationOptions(type=kind)
        )
    assert not (tmp_path / "out.dcm").exists()


def test_without_highdicom_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_series(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingPackage, match=r"medsam2-runtime\[dicom-seg\]"):
        check_segmentation(volume)


def test_enhanced_objects_of_one_frame_each_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):

        def edit(dataset: Dataset, index: int = index) -> None:
            with_frame_of_reference(dataset)
            dataset.SOPInstanceUID = f"1.2.3.{index + 1}"

        save_frames(tmp_path / "in" / f"{index}.dcm", edit, steps=(index,))
    volume = read_volume(tmp_path / "in")
    assert volume.shape[0] == 3
    with pytest.raises(SeriesError, match="3 enhanced objects"):
        check_segmentation(volume)


def test_frames_without_functional_groups_are_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        with_frame_of_reference(dataset)
        del dataset.SharedFunctionalGroupsSequence
        for own in dataset.PerFrameFunctionalGroupsSequence:
            own.update(
                group(
                    PixelMeasuresSequence={"PixelSpacing": decimals((0.7, 0.85))},
                    PlaneOrientationSequence={"ImageOrientationPatient": decimals(AXIAL)},
                )
            )

    save_frames(tmp_path / "in.dcm", edit)
    with pytest.raises(SeriesError, match="no functional groups"):
        check_segmentation(read_volume(tmp_path / "in.dcm"))
