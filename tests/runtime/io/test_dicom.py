"""DICOM series and multi-frame objects: where they lie, and what is refused."""

from __future__ import annotations

import shutil
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
)

from runtime.errors import InputError, SeriesError, VolumeError
from runtime.io import read_volume, write_mask
from runtime.io.dicom import is_dicom
from tests.dicoms import (
    AXIAL,
    OBLIQUE,
    ORIGIN_MM,
    OTHER_SERIES,
    SAGITTAL,
    SERIES,
    SHAPE,
    SPACING_ZYX_MM,
    an_image,
    an_object,
    assert_grid,
    bundled,
    decimals,
    group,
    normal,
    pixels,
    rescaling,
    save_frames,
    save_series,
)


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_a_series_is_read_where_it_lies(
    tmp_path: Path, orientation: tuple[float, ...], transfer_syntax: str
) -> None:
    array = save_series(tmp_path, orientation=orientation, transfer_syntax=transfer_syntax)
    volume = read_volume(str(tmp_path))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert_grid(volume, orientation)
    assert (volume.modality, volume.source) == ("CT", str(tmp_path))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_lies_where_its_series_lies(tmp_path: Path, suffix: str) -> None:
    save_series(tmp_path / "series", orientation=OBLIQUE)
    series = read_volume(tmp_path / "series")
    labels = (series.array > 0).astype(np.uint8)
    write_mask(tmp_path / f"mask{suffix}", labels, series)
    mask = read_volume(tmp_path / f"mask{suffix}")
    assert np.array_equal(mask.array, labels)
    assert_grid(mask, OBLIQUE)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(SHAPE[0])))
def test_names_and_numbers_do_not_order_slices(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    def number(dataset: Dataset, index: int) -> None:
        dataset.InstanceNumber = SHAPE[0] - order[index]

    folder = tmp_path_factory.mktemp("series")
    array = save_series(folder, number, names=[f"IM{place}" for place in order])
    volume = read_volume(folder)
    assert np.array_equal(volume.array, array)
    assert_grid(volume)


def test_slices_are_ordered_whatever_the_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = save_series(tmp_path)
    paths = [tmp_path / f"{index:03}.dcm" for index in (3, 0, 4, 1, 2)]
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(paths))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, array)
    assert_grid(volume)


def test_each_slice_is_rescaled_by_its_own_header(tmp_path: Path) -> None:
    slopes, intercepts = (1, 0.5, 2, 1, 0.25), (0, -10, 3, -1024, 40000)

    def rescale(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[index], intercepts[index]

    array = save_series(tmp_path, rescale)
    expected = array * np.reshape(slopes, (-1, 1, 1)) + np.reshape(intercepts, (-1, 1, 1))
    assert np.array_equal(read_volume(tmp_path).array, expected)


def test_hounsfield_units_come_from_unsigned_pixels(tmp_path: Path) -> None:
    def shift(dataset: Dataset, index: int) -> None:
        stored = np.frombuffer(dataset.PixelData, "<i2") + 1024
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset.PixelRepresentation, dataset.RescaleIntercept = 0, "-1024"

    array = save_series(tmp_path, shift)
    assert np.array_equal(read_volume(tmp_path).array, array)


def test_slices_of_several_pixel_types_keep_their_values(tmp_path: Path) -> None:
    small = np.arange(48).reshape(6, 8)

    def shrink(dataset: Dataset, index: int) -> None:
        if index == 0:
            dataset.BitsAllocated = dataset.BitsStored = 8
            dataset.HighBit, dataset.PixelRepresentation = 7, 0
            dataset.PixelData = small.astype(np.uint8).tobytes()

    array = save_series(tmp_path, shrink)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array[0], small)
    assert np.array_equal(volume.array[1:], array[1:])


def test_inverted_pixels_are_refused(tmp_path: Path) -> None:
    def invert(dataset: Dataset, index: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    save_series(tmp_path, invert)
    with pytest.raises(VolumeError, match="MONOCHROME1"):
        read_volume(tmp_path)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_gapped_series_is_refused(tmp_path: Path, missing: int) -> None:
    save_series(tmp_path)
    (tmp_path / f"{missing:03}.dcm").unlink()
    with pytest.raises(SeriesError, match=r"5 mm apart where 2\.5 mm"):
        read_volume(tmp_path)


@pytest.mark.parametrize(("shift_mm", "accepted"), [(0.01, True), (0.02, True), (0.05, False)])
def test_gaps_may_differ_by_one_percent(tmp_path: Path, shift_mm: float, accepted: bool) -> None:
    def shift(dataset: Dataset, index: int) -> None:
        if index == 2:
            z_mm = float(dataset.ImagePositionPatient[2]) + shift_mm
            dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], f"{z_mm:.6f}"]

    save_series(tmp_path, shift)
    if accepted:
        assert_grid(read_volume(tmp_path))
    else:
        with pytest.raises(SeriesError, match="unevenly"):
            read_volume(tmp_path)


@pytest.mark.parametrize("depth", [2, 3, 40])
@pytest.mark.parametrize("spacing_mm", [0.3125, 0.625, 1.0])
def test_positions_of_two_decimals_are_even_enough(
    tmp_path: Path, spacing_mm: float, depth: int
) -> None:
    """Rounding puts each slice up to 0.009 mm off, and gaps and slides up to twice that."""
    origin_mm = np.array([-120.123, 33.337, 810.71])

    def round_off(dataset: Dataset, index: int) -> None:
        position_mm = origin_mm + index * spacing_mm * normal(OBLIQUE)
        dataset.ImagePositionPatient = [f"{value:.2f}" for value in position_mm]

    array = save_series(tmp_path, round_off, orientation=OBLIQUE, depth=depth)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, array)
    assert volume.origin_mm == pytest.approx(origin_mm, abs=0.005)
    assert volume.spacing_mm[0] == pytest.approx(spacing_mm, abs=0.018 / (depth - 1))


@pytest.mark.parametrize("spacing_mm", [0.02, 0.05, 0.2])
def test_a_missing_slice_is_refused_however_near_they_lie(
    tmp_path: Path, spacing_mm: float
) -> None:
    def shrink(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = decimals((0, 0, index * spacing_mm))

    save_series(tmp_path, shrink)
    (tmp_path / "002.dcm").unlink()
    with pytest.raises(SeriesError, match="apart where"):
        read_volume(tmp_path)


def test_two_slices_in_one_place_are_refused(tmp_path: Path) -> None:
    array = save_series(tmp_path)
    again = dcmread(tmp_path / "002.dcm")
    again.PixelData = (array[2] + 1).tobytes()
    again.save_as(tmp_path / "again.dcm")
    with pytest.raises(SeriesError, match="same place"):
        read_volume(tmp_path)


def test_of_a_slice_that_was_copied_twice_one_counts(tmp_path: Path) -> None:
    array = save_series(tmp_path)
    for name in ("002 (1).dcm", "Copy of 002.dcm", "again"):
        shutil.copy(tmp_path / "002.dcm", tmp_path / name)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, array)
    assert_grid(volume)


def test_mixed_orientations_are_refused(tmp_path: Path) -> None:
    def turn(dataset: Dataset, index: int) -> None:
        if index == 3:
            dataset.ImageOrientationPatient = decimals(SAGITTAL)

    save_series(tmp_path, turn)
    with pytest.raises(SeriesError, match="different directions"):
        read_volume(tmp_path)


def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    def skew(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = decimals((1, 0, 0, 0.1, 0.995, 0))

    save_series(tmp_path, skew)
    with pytest.raises(SeriesError, match="perpendicular"):
        read_volume(tmp_path)


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    def transpose(dataset: Dataset, index: int) -> None:
        if index == 1:
            dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows

    save_series(tmp_path, transpose)
    with pytest.raises(SeriesError, match="one size"):
        read_volume(tmp_path)


def test_mixed_pixel_spacings_are_refused(tmp_path: Path) -> None:
    def stretch(dataset: Dataset, index: int) -> None:
        if index == 1:
            dataset.PixelSpacing = ["0.7", "0.86"]

    save_series(tmp_path, stretch)
    with pytest.raises(SeriesError, match="one pixel spacing"):
        read_volume(tmp_path)


def test_slices_of_several_frames_of_reference_are_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.FrameOfReferenceUID = "1.2.826.0.1.8" if index == 3 else "1.2.826.0.1.9"

    save_series(tmp_path / "in", edit)
    with pytest.raises(
        SeriesError, match=r"003\.dcm lies in the frame of reference.*000\.dcm in 1"
    ):
        read_volume(tmp_path / "in")


@pytest.mark.parametrize(("degrees", "accepted"), [(0.05, True), (0.1, False), (0.5, False)])
def test_a_small_tilt_adds_up_over_many_slices(
    tmp_path: Path, degrees: float, accepted: bool
) -> None:
    def slide(dataset: Dataset, index: int) -> None:
        slid_mm = index * 2.5 * np.tan(np.radians(degrees))
        dataset.ImagePositionPatient = decimals((0, slid_mm, index * 2.5))

    save_series(tmp_path, slide, depth=60)
    if accepted:
        assert read_volume(tmp_path).shape[0] == 60
    else:
        with pytest.raises(SeriesError, match=r"slide sideways: 0..\.dcm lies"):
            read_volume(tmp_path)


def test_gaps_that_grow_within_their_tolerance_add_up(tmp_path: Path) -> None:
    def shift(dataset: Dataset, index: int) -> None:
        far_mm = 2.5 * index + 0.02 * max(0, index - 60)
        dataset.ImagePositionPatient = decimals((0, 0, far_mm))

    save_series(tmp_path, shift, depth=130)
    with pytest.raises(SeriesError, match=r"unevenly spaced: 060\.dcm lies 0\.64.* mm from where"):
        read_volume(tmp_path)


def test_gantry_tilt_is_refused(tmp_path: Path) -> None:
    def slide(dataset: Dataset, index: int) -> None:
        x_mm, y_mm, z_mm = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = decimals((x_mm, y_mm + 0.3 * index, z_mm))

    save_series(tmp_path, slide)
    with pytest.raises(SeriesError, match="tilt"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("ImagePositionPatient", "position"),
        ("ImageOrientationPatient", "orientation"),
        ("PixelSpacing", "pixel spacing"),
    ],
)
@pytest.mark.parametrize("depth", [1, 3])
def test_a_slice_that_cannot_be_placed_is_refused(
    tmp_path: Path, keyword: str, name: str, depth: int
) -> None:
    def forget(dataset: Dataset, index: int) -> None:
        delattr(dataset, keyword)

    save_series(tmp_path, forget, depth=depth)
    with pytest.raises(SeriesError, match=name):
        read_volume(tmp_path)


def test_one_of_two_series_must_be_chosen(tmp_path: Path) -> None:
    save_series(tmp_path)
    other = save_series(tmp_path, depth=3, series=OTHER_SERIES, names=["x.dcm", "y.dcm", "z.dcm"])
    with pytest.raises(SeriesError, match="2 series") as caught:
        read_volume(tmp_path)
    assert f"{SERIES}  CT, 'thin', 5 slices" in str(caught.value)
    one, other_one = str(caught.value).splitlines()[1:]
    assert one.endswith(" slices;")  # commands say it in one line
    assert other_one == f"  {OTHER_SERIES}  CT, 'thin', 3 slices"
    assert np.array_equal(read_volume(tmp_path, series=OTHER_SERIES).array, other)
    assert np.array_equal(read_volume(tmp_path, series=SERIES).array, pixels())
    with pytest.raises(SeriesError, match=r"no series 1\.2\.3"):
        read_volume(tmp_path, series="1.2.3")


def test_subfolders_are_not_searched(tmp_path: Path) -> None:
    save_series(tmp_path / "below")
    with pytest.raises(SeriesError, match="no DICOM images"):
        read_volume(tmp_path)
    array = save_series(tmp_path)
    assert np.array_equal(read_volume(tmp_path).array, array)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    array = save_series(tmp_path, depth=1)
    for path in (tmp_path, tmp_path / "000.dcm"):
        volume = read_volume(path)
        assert np.array_equal(volume.array, array)
        assert_grid(volume)


def test_dicom_is_known_by_its_bytes_whatever_its_name(tmp_path: Path) -> None:
    array = save_series(tmp_path, depth=1, names=["IM0001"])
    assert is_dicom(tmp_path / "IM0001")
    assert np.array_equal(read_volume(tmp_path / "IM0001").array, array)
    (tmp_path / "note").write_bytes(b" DICM" * 100)
    assert not is_dicom(tmp_path / "note")


def test_a_real_slice_is_read_as_pydicom_reads_it(tmp_path: Path) -> None:
    path = bundled("CT_small.dcm")
    theirs, ours = dcmread(path), read_volume(path)
    expected = theirs.pixel_array * float(theirs.RescaleSlope) + float(theirs.RescaleIntercept)
    assert np.array_equal(ours.array[0], expected)
    assert ours.origin_mm == pytest.approx([float(x) for x in theirs.ImagePositionPatient])
    assert ours.spacing_mm == pytest.approx(
        [float(theirs.SliceThickness), *map(float, theirs.PixelSpacing)]
    )


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"])
def test_stored_encodings_give_the_same_slice(name: str) -> None:
    expected = dcmread(bundled("MR_small.dcm")).pixel_array
    assert np.array_equal(read_volume(bundled(name)).array[0], expected)


def test_files_of_other_kinds_may_lie_beside_the_slices(tmp_path: Path) -> None:
    array = save_series(tmp_path)
    # Beside them a report, contours without a file header, a directory and things from other tools.
    shutil.copy(bundled("test-SR.dcm"), tmp_path)
    shutil.copy(bundled("rtstruct.dcm"), tmp_path)
    shutil.copy(bundled("DICOMDIR"), tmp_path)
    an_object(RTStructureSetStorage, OTHER_SERIES, ExplicitVRLittleEndian).save_as(
        tmp_path / "rs.dcm", enforce_file_format=True
    )
    (tmp_path / "notes.txt").write_text("acquired on a Monday")
    (tmp_path / "._000.dcm").write_bytes(b"finder")
    (tmp_path / ".keep").touch()
    assert np.array_equal(read_volume(tmp_path).array, array)


def test_a_segmentation_beside_the_slices_is_no_choice(tmp_path: Path) -> None:
    array = save_series(tmp_path)
    shutil.copy(bundled("liver_1frame.dcm"), tmp_path)
    assert np.array_equal(read_volume(tmp_path).array, array)
    with pytest.raises(SeriesError, match="1 slice, not an image that can be segmented"):
        read_volume(tmp_path, series="1.2.3")
    assert np.array_equal(read_volume(tmp_path, series=SERIES).array, array)


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "rtdose.dcm"])
def test_an_object_that_is_no_scan_is_refused(tmp_path: Path, name: str) -> None:
    shutil.copy(bundled(name), tmp_path / "a.dcm")
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(SeriesError, match="not an image of a patient"):
            read_volume(path)


def test_a_segmentation_with_a_slices_geometry_is_refused(tmp_path: Path) -> None:
    def pose(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage

    save_series(tmp_path, pose)
    with pytest.raises(SeriesError, match="not an image of a patient"):
        read_volume(tmp_path)


@pytest.mark.parametrize("name", ["rtstruct.dcm", "test-SR.dcm", "rtplan.dcm"])
def test_an_object_without_pixels_is_refused(tmp_path: Path, name: str) -> None:
    shutil.copy(bundled(name), tmp_path / "a.dcm")
    with pytest.raises(SeriesError, match="no DICOM images"):
        read_volume(tmp_path)
    with pytest.raises(SeriesError, match="not an image"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "examples_palette.dcm"])
def test_colour_is_refused(tmp_path: Path, name: str) -> None:
    shutil.copy(bundled(name), tmp_path / "a.dcm")
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(VolumeError, match="colour"):
            read_volume(path)


@pytest.mark.parametrize("size", [0, 60, 100, 140, 300, 600, -50, -1])
def test_a_damaged_last_slice_is_refused_and_never_passed_over(tmp_path: Path, size: int) -> None:
    # Without its last slice the series would still be evenly spaced.
    save_series(tmp_path)
    path = tmp_path / "004.dcm"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SeriesError, match=r"004\.dcm"):
        read_volume(tmp_path)


@pytest.mark.parametrize("size", [0, 140, 300, -1])
def test_a_damaged_slice_without_a_suffix_is_refused(tmp_path: Path, size: int) -> None:
    save_series(tmp_path, names=[f"IM{index}" for index in range(SHAPE[0])])
    (tmp_path / "IM4").write_bytes((tmp_path / "IM4").read_bytes()[:size])
    with pytest.raises(SeriesError, match="IM4"):
        read_volume(tmp_path)


def test_a_damaged_slice_that_is_bundled_is_refused(tmp_path: Path) -> None:
    shutil.copy(bundled("MR_truncated.dcm"), tmp_path / "a.dcm")
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(SeriesError, match=r"a\.dcm"):
            read_volume(path)


def test_pixels_that_cannot_be_decoded_are_refused(tmp_path: Path) -> None:
    content = bytearray(bundled("MR_small_RLE.dcm").read_bytes())
    # The RLE header: two segments, the first of which begins 64 bytes on.
    at = content.index(b"\x02\0\0\0\x40\0\0\0")
    content[at : at + 12] = b"\xff" * 12
    (tmp_path / "a.dcm").write_bytes(content)
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(VolumeError, match="pixels cannot be read"):
            read_volume(path)


def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(self: Path) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "iterdir", forbid)
    with pytest.raises(VolumeError, match="not yours"):
        read_volume(tmp_path)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("in_folder", [False, True])
def test_an_enhanced_object_is_read_where_it_lies(
    tmp_path: Path, orientation: tuple[float, ...], in_folder: bool
) -> None:
    array = save_frames(tmp_path / "a.dcm", orientation=orientation)
    volume = read_volume(tmp_path if in_folder else tmp_path / "a.dcm")
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert_grid(volume, orientation)
    assert volume.modality == "MR"


@pytest.mark.parametrize("steps", [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_frames_are_ordered_by_where_they_lie(tmp_path: Path, steps: tuple[float, ...]) -> None:
    array = save_frames(tmp_path / "a.dcm", steps=steps)
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array[np.argsort(steps)])
    assert_grid(volume)


@pytest.mark.parametrize(
    ("steps", "message"),
    [((0, 1, 2, 4), "unevenly"), ((0, 0, 1, 1), "same place"), ((0, 0, 0, 0), "same place")],
)
def test_frames_that_form_no_grid_are_refused(
    tmp_path: Path, steps: tuple[float, ...], message: str
) -> None:
    save_frames(tmp_path / "a.dcm", steps=steps)
    with pytest.raises(SeriesError, match=message):
        read_volume(tmp_path / "a.dcm")


def test_frames_that_slide_sideways_are_refused(tmp_path: Path) -> None:
    def slide(dataset: Dataset) -> None:
        for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            x_mm, y_mm, z_mm = map(float, frame.PlanePositionSequence[0].ImagePositionPatient)
            position_mm = decimals((x_mm, y_mm + 0.3 * index, z_mm))
            frame.PlanePositionSequence[0].ImagePositionPatient = position_mm

    save_frames(tmp_path / "a.dcm", slide)
    with pytest.raises(SeriesError, match="tilt"):
        read_volume(tmp_path / "a.dcm")


def per_frame(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Moves a shared sequence into every frame's group, and gives those items."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    items = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        setattr(frame, keyword, [deepcopy(shared[keyword][0])])
        items.append(frame[keyword][0])
    delattr(shared, keyword)
    return items


def test_orientation_and_spacing_may_be_given_frame_by_frame(tmp_path: Path) -> None:
    def unshare(dataset: Dataset) -> None:
        per_frame(dataset, "PlaneOrientationSequence")
        per_frame(dataset, "PixelMeasuresSequence")

    array = save_frames(tmp_path / "a.dcm", unshare, orientation=OBLIQUE)
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array)
    assert_grid(volume, OBLIQUE)


def test_frames_of_different_orientation_are_refused(tmp_path: Path) -> None:
    def turn(dataset: Dataset) -> None:
        items = per_frame(dataset, "PlaneOrientationSequence")
        items[2].ImageOrientationPatient = decimals(SAGITTAL)

    save_frames(tmp_path / "a.dcm", turn)
    with pytest.raises(SeriesError, match="different directions"):
        read_volume(tmp_path / "a.dcm")


def test_frames_of_different_pixel_spacing_are_refused(tmp_path: Path) -> None:
    def stretch(dataset: Dataset) -> None:
        per_frame(dataset, "PixelMeasuresSequence")[2].PixelSpacing = ["1", "1"]

    save_frames(tmp_path / "a.dcm", stretch)
    with pytest.raises(SeriesError, match="more than one pixel spacing"):
        read_volume(tmp_path / "a.dcm")


def test_a_frame_without_a_position_is_refused(tmp_path: Path) -> None:
    def forget(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence

    save_frames(tmp_path / "a.dcm", forget)
    with pytest.raises(SeriesError, match="4 frames and 3 positions"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("keyword", ["PixelMeasuresSequence", "PlaneOrientationSequence"])
def test_frames_without_spacing_or_orientation_are_refused(tmp_path: Path, keyword: str) -> None:
    def forget(dataset: Dataset) -> None:
        delattr(dataset.SharedFunctionalGroupsSequence[0], keyword)

    save_frames(tmp_path / "a.dcm", forget)
    with pytest.raises(SeriesError):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("shared", [False, True])
def test_frames_are_rescaled(tmp_path: Path, shared: bool) -> None:
    def rescale(dataset: Dataset) -> None:
        groups = (
            dataset.SharedFunctionalGroupsSequence
            if shared
            else dataset.PerFrameFunctionalGroupsSequence
        )
        for item in groups:
            item.update(group(**rescaling(2, -5)))

    array = save_frames(tmp_path / "a.dcm", rescale)
    expected = array.astype(int) * 2 - 5
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, expected)


def test_each_frame_is_rescaled_by_its_own_group(tmp_path: Path) -> None:
    slopes, intercepts = (2, 3, 0.5, 1), (-5, 0, 40000, -1024)

    def rescale(dataset: Dataset) -> None:
        for item, *pair in zip(
            dataset.PerFrameFunctionalGroupsSequence, slopes, intercepts, strict=True
        ):
            item.update(group(**rescaling(*pair)))

    array = save_frames(tmp_path / "a.dcm", rescale)
    expected = array * np.reshape(slopes, (-1, 1, 1)) + np.reshape(intercepts, (-1, 1, 1))
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, expected)


def test_frames_may_be_compressed_and_lie_behind_sequences_of_any_length(tmp_path: Path) -> None:
    array = save_frames(tmp_path / "a.dcm")
    dataset = dcmread(tmp_path / "a.dcm")
    dataset.compress(RLELossless)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        dataset[keyword].is_undefined_length = True
        for item in dataset[keyword].value:
            item.is_undefined_length_sequence_item = True
    dataset.save_as(tmp_path / "a.dcm")
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array)
    assert_grid(volume)


@pytest.mark.parametrize(
    "transfer_syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_frames_are_read_in_every_encoding(tmp_path: Path, transfer_syntax: str) -> None:
    array = save_frames(tmp_path / "a.dcm", transfer_syntax=transfer_syntax)
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array)
    assert_grid(volume)


def test_a_film_is_refused(tmp_path: Path) -> None:
    save_series(tmp_path, depth=1)
    dataset = dcmread(tmp_path / "000.dcm")
    dataset.NumberOfFrames = 3
    dataset.PixelData = dataset.PixelData * 3
    dataset.save_as(tmp_path / "000.dcm")
    with pytest.raises(SeriesError, match="3 frames and 1 positions"):
        read_volume(tmp_path / "000.dcm")


def test_an_enhanced_object_beside_others_of_its_series_is_refused(tmp_path: Path) -> None:
    save_frames(tmp_path / "a.dcm")
    save_frames(tmp_path / "b.dcm", steps=(4, 5, 6, 7))
    with pytest.raises(SeriesError, match="name that file alone"):
        read_volume(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cut_enhanced_object_never_reads_as_something_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.dcm"
    save_frames(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError):
        read_volume(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_changed_byte_raises_nothing_but_input_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.dcm"
    save_frames(path, steps=(0, 1))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(InputError):
        read_volume(path)


def save_nuclear(
    path: Path, order: list[int], spacing_mm: float, orientation: tuple[float, ...]
) -> np.ndarray:
    """A reconstruction of one detector: the place of its first slice, and how far apart they are."""
    array = pixels(len(order))
    dataset = an_image(array, NuclearMedicineImageStorage, SERIES, ExplicitVRLittleEndian)
    dataset.Modality = "NM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.NumberOfFrames = dataset.NumberOfSlices = len(order)
    dataset.SliceVector = order
    dataset.PixelSpacing = decimals(SPACING_ZYX_MM[1:])
    dataset.SpacingBetweenSlices = f"{spacing_mm:.6f}"
    detector = Dataset()
    detector.ImagePositionPatient = decimals(ORIGIN_MM)
    detector.ImageOrientationPatient = decimals(orientation)
    dataset.DetectorInformationSequence = [detector]
    dataset.save_as(path, enforce_file_format=True)
    return array


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("order", [[1, 2, 3, 4], [3, 1, 4, 2]])
def test_a_nuclear_reconstruction_is_read_where_it_lies(
    tmp_path: Path, order: list[int], orientation: tuple[float, ...]
) -> None:
    array = save_nuclear(tmp_path / "a.dcm", order, SPACING_ZYX_MM[0], orientation)
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array[np.argsort(order)])
    assert_grid(volume, orientation)


def test_a_negative_spacing_stacks_slices_against_the_normal(tmp_path: Path) -> None:
    """PS3.3 C.8.4.15."""
    array = save_nuclear(tmp_path / "a.dcm", [1, 2, 3, 4], -SPACING_ZYX_MM[0], AXIAL)
    volume = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(volume.array, array[::-1])
    lowest_mm = ORIGIN_MM[2] - 3 * SPACING_ZYX_MM[0]
    assert volume.origin_mm == pytest.approx((*ORIGIN_MM[:2], lowest_mm))
    assert volume.direction == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.parametrize("order", [[1, 2, 3], [1, 1, 2, 2]])
def test_slice_numbers_that_make_no_stack_are_refused(tmp_path: Path, order: list[int]) -> None:
    """Such as several phases of a heart."""
    save_nuclear(tmp_path / "a.dcm", [1, 2, 3, 4], SPACING_ZYX_MM[0], AXIAL)
    dataset = dcmread(tmp_path / "a.dcm")
    dataset.SliceVector = order
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(SeriesError, match=r"same place|4 frames and 3 slice numbers"):
        read_volume(tmp_path / "a.dcm")


def test_enhanced_objects_of_one_frame_make_a_series(tmp_path: Path) -> None:
    arrays = []
    for step in (2, 0, 1):
        arrays.append((step, save_frames(tmp_path / f"{9 - step}.dcm", steps=(step,))))
    volume = read_volume(tmp_path)
    assert np.array_equal(
        volume.array, np.concatenate([a for _, a in sorted(arrays, key=lambda p: p[0])])
    )
    assert_grid(volume)


def test_stacks_side_by_side_are_refused(tmp_path: Path) -> None:
    """Two stacks of parallel slices, one beside the other."""

    def shift(dataset: Dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence[2:]:
            x_mm, *rest = map(float, frame.PlanePositionSequence[0].ImagePositionPatient)
            frame.PlanePositionSequence[0].ImagePositionPatient = decimals((x_mm + 90, *rest))

    save_frames(tmp_path / "a.dcm", shift)
    with pytest.raises(SeriesError, match="sideways"):
        read_volume(tmp_path / "a.dcm")


def test_frames_fewer_or_more_than_their_groups_are_refused(tmp_path: Path) -> None:
    def drop(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    save_frames(tmp_path / "a.dcm", drop)
    with pytest.raises(SeriesError, match="4 frames and functional groups of 3"):
        read_volume(tmp_path / "a.dcm")


def test_a_number_cut_short_within_a_group_is_refused(tmp_path: Path) -> None:
    """Which would move a frame: the last number of its item, of a length that does not fit into it."""
    save_frames(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    at = content.rindex(b"\x20\x00\x32\x00DS") + 6
    (tmp_path / "a.dcm").write_bytes(content[:at] + b"\x40" + content[at + 1 :])
    with pytest.raises(SeriesError, match=r"0020\|0032\) is cut short"):
        read_volume(tmp_path / "a.dcm")
