from __future__ import annotations

import gzip
import os
import pickle
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, MissingInput, VolumeError
from runtime.io import Volume, read_volume
from runtime.io.pictures.images import read_images
from runtime.io.volumes.itk import quiet

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
ONE_FILE = (".nii", ".nii.gz", ".nrrd", ".mha")
SPACING_XYZ_MM = (0.7, 0.85, 2.5)
ORIGIN_MM = (-101.25, 33.5, 1234.125)
NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"


def rotation(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


OBLIQUE = rotation((0.9, 0.2, -0.3, 0.15))


def voxels(shape: tuple[int, ...] = (4, 5, 6), dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(7).integers(1, 120, shape).astype(dtype)


def image_of(array: np.ndarray) -> Any:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ_MM)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(OBLIQUE.ravel().tolist())
    return image


def saved(folder: Path, suffix: str, compressed: bool = False) -> tuple[Path, np.ndarray]:
    array, path = voxels(), folder / f"image{suffix}"
    sitk.WriteImage(image_of(array), str(path), useCompression=compressed)
    return path, array


def data_file(path: Path) -> Path:
    """The file that holds the voxels of `path`: itself, or its neighbour."""
    return next((p for p in path.parent.glob("image*raw*")), path)


def affine_ras(volume: Volume) -> np.ndarray:
    """Voxel (x, y, z) to RAS world, as NIfTI writes it: x and y are LPS turned round."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(volume.direction, (3, 3)) * volume.spacing_mm[::-1]
    affine[:3, 3] = volume.origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_oblique_volume_is_read_as_it_was_saved(
    tmp_path: Path, suffix: str, compressed: bool
) -> None:
    path, array = saved(tmp_path, suffix, compressed)
    volume = read_volume(str(path))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert volume.spacing_mm == pytest.approx(SPACING_XYZ_MM[::-1], rel=1e-6)
    assert volume.origin_mm == pytest.approx(ORIGIN_MM, rel=1e-6)
    assert volume.direction == pytest.approx(OBLIQUE.ravel(), abs=1e-6)
    assert volume.modality is None
    assert volume.source == str(path)


@settings(max_examples=25, deadline=None)
@given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    spacing_mm=st.tuples(*[st.floats(0.05, 20)] * 3),
    origin_mm=st.tuples(*[st.floats(-2000, 2000)] * 3),
    flipped=st.booleans(),
    suffix=st.sampled_from(ONE_FILE),
)
def test_any_orthonormal_grid_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    quaternion: tuple[float, float, float, float],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
    flipped: bool,
    suffix: str,
) -> None:
    axes = rotation(quaternion) * (-1 if flipped else 1)
    before = Volume(voxels(), spacing_mm, origin_mm, tuple(axes.ravel().tolist()))
    path = tmp_path_factory.mktemp("grid") / f"a{suffix}"
    sitk.WriteImage(before.to_image(), str(path))
    after = read_volume(path)
    assert np.array_equal(after.array, before.array)
    # NIfTI keeps float32; at 2 m that is a tenth of a micrometre.
    assert after.spacing_mm == pytest.approx(before.spacing_mm, rel=1e-5)
    assert after.origin_mm == pytest.approx(before.origin_mm, rel=1e-6, abs=1e-5)
    assert after.direction == pytest.approx(before.direction, abs=2e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_nifti_file_lies_where_nibabel_says(tmp_path: Path, mirrored: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE * SPACING_XYZ_MM * (-1 if mirrored else 1)
    affine[:3, 3] = ORIGIN_MM
    array = voxels()
    nib.save(nib.Nifti1Image(array.T, affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, array)
    assert affine_ras(volume) == pytest.approx(affine, rel=1e-5, abs=1e-5)


def test_a_scan_that_nibabel_carries_is_read_as_nibabel_reads_it() -> None:
    path = NIBABEL_DATA / "anatomical.nii"
    theirs, ours = nib.load(path), read_volume(path)
    assert np.array_equal(ours.array, np.asarray(theirs.dataobj).T)
    assert affine_ras(ours) == pytest.approx(theirs.affine, abs=1e-5)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1e3), ("micron", 1e-3)])
def test_nifti_lengths_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(voxels().T, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing_mm == pytest.approx(
        (4 * factor, 3 * factor, 2 * factor)
    )


def test_nifti_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(dtype=np.float64).T, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").dataobj.slope != 1
    assert read_volume(tmp_path / "a.nii").array == pytest.approx(voxels(), abs=0.01)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2", ">i2", "<i4", ">f4", "<f8"])
def test_voxel_types_are_kept(tmp_path: Path, dtype: str) -> None:
    array = voxels(dtype=dtype)
    nib.save(nib.Nifti1Image(array.T, np.eye(4), dtype=np.dtype(dtype)), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(volume.array, array)


def test_an_nrrd_in_ras_is_turned_into_lps(tmp_path: Path) -> None:
    array = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nspace: RAS\n"
        "space directions: (0.5,0,0) (0,0.6,0) (0,0,2)\nspace origin: (1,2,3)\n"
        "endian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes())
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.array_equal(volume.array, array)
    assert volume.origin_mm == (-1, -2, 3)
    assert volume.spacing_mm == pytest.approx((2, 0.6, 0.5))
    assert volume.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fourth_axis_of_length_1_is_dropped(tmp_path: Path, suffix: str) -> None:
    array = voxels()
    image = sitk.JoinSeries([image_of(array)])
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(volume.array, array)
    assert volume.spacing_mm == pytest.approx(SPACING_XYZ_MM[::-1], rel=1e-6)
    assert volume.origin_mm == pytest.approx(ORIGIN_MM, rel=1e-6)
    assert volume.direction == pytest.approx(OBLIQUE.ravel(), abs=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_time_points_are_refused(tmp_path: Path, suffix: str) -> None:
    image = sitk.JoinSeries([image_of(voxels())] * 2)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    with pytest.raises(VolumeError, match="4 axes"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colour_and_vectors_are_refused(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(voxels((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=True)
    with pytest.raises(VolumeError, match="several values per voxel"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        np.zeros((6, 5, 4), np.complex64),
        np.zeros((6, 5, 4, 1, 3), np.float32),
        np.zeros((6, 5), np.int16),
    ],
    ids=["rgb", "complex", "vector", "plane"],
)
def test_nifti_that_is_no_scalar_volume_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="wanted"):
        read_volume(tmp_path / "a.nii")


def test_sheared_axes_are_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    image = nib.Nifti1Image(voxels().T, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="resample"):
        read_volume(tmp_path / "a.nii")
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nspace: LPS\n"
        "space directions: (1,0,0) (0.3,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
        "endian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(48))
    with pytest.raises(VolumeError, match="resample"):
        read_volume(tmp_path / "a.nrrd")


def test_what_is_not_there_is_missing_input(tmp_path: Path) -> None:
    path = tmp_path / "no.nii.gz"
    with pytest.raises(MissingInput) as caught:
        read_volume(path)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(path) in str(caught.value)


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(MissingInput, match="found an empty path"):
        read_volume("")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_refused(
    tmp_path: Path, suffix: str, compressed: bool, kept: float
) -> None:
    path, _ = saved(tmp_path, suffix, compressed)
    data = data_file(path)
    whole = data.read_bytes()
    data.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(VolumeError):
        read_volume(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from(ONE_FILE), compressed=st.booleans())
def test_a_cut_file_never_reads_as_something_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str, compressed: bool
) -> None:
    path, array = saved(tmp_path_factory.mktemp("cut"), suffix, compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        volume = read_volume(path)
    except VolumeError:
        return
    pytest.fail(f"{suffix} was read as {volume}, {array.shape} was saved")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_in_gzip_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, array = saved(tmp_path_factory.mktemp("flip"), ".nii.gz")
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        volume = read_volume(path)
    except VolumeError:
        return
    assert np.array_equal(volume.array, array)
    assert volume.origin_mm == pytest.approx(ORIGIN_MM, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 347), value=st.integers(0, 255))
def test_a_changed_nifti_header_raises_nothing_but_input_errors(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path, _ = saved(tmp_path_factory.mktemp("header"), ".nii")
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)
    with suppress(InputError):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_damaged_metaimage_data_is_refused(tmp_path: Path, suffix: str) -> None:
    path, _ = saved(tmp_path, suffix, compressed=True)
    content = bytearray(data_file(path).read_bytes())
    content[-40] ^= 0x55
    data_file(path).write_bytes(content)
    with pytest.raises(VolumeError, match="copy it again"):
        read_volume(path)


def meta_image(array: np.ndarray, depth: int, size_line: str) -> bytes:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = True\n{size_line}ElementSpacing = 1 1 1\nDimSize = 6 5 {depth}\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return header.encode() + zlib.compress(array.tobytes())


def test_a_metaimage_must_say_and_hold_all_its_compressed_bytes(tmp_path: Path) -> None:
    array, path = voxels(), tmp_path / "a.mha"
    size = len(zlib.compress(array.tobytes()))
    line = f"CompressedDataSize = {size}\n"
    path.write_bytes(meta_image(array, 4, line))
    assert np.array_equal(read_volume(path).array, array)
    path.write_bytes(meta_image(array, 5, line))
    with pytest.raises(VolumeError, match="300 bytes, 240 are there"):
        read_volume(path)
    # Without its last four bytes a zlib stream lacks the checksum alone.
    for bad in ("0", f"{size // 2}", f"{size - 4}", "many"):
        path.write_bytes(meta_image(array, 4, f"CompressedDataSize = {bad}\n"))
        with pytest.raises(VolumeError):
            read_volume(path)
    # A size is not needed: zlib's data says where it ends, and the file has to end there too.
    path.write_bytes(meta_image(array, 4, ""))
    assert np.array_equal(read_volume(path).array, array)
    path.write_bytes(meta_image(array, 4, "") + b"0")
    with pytest.raises(VolumeError, match="goes on"):
        read_volume(path)


def test_a_compressed_mhd_needs_no_size(tmp_path: Path) -> None:
    path, array = saved(tmp_path, ".mhd", compressed=True)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "CompressedDataSize" not in line))
    assert np.array_equal(read_volume(path).array, array)


def test_a_header_whose_data_file_is_gone_is_refused(tmp_path: Path) -> None:
    for suffix, compressed in ((".mhd", True), (".mhd", False), (".nhdr", False)):
        path, _ = saved(tmp_path, suffix, compressed)
        data_file(path).unlink()
        with pytest.raises(VolumeError):
            read_volume(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npz", ".dcm", ".png", ""])
@pytest.mark.parametrize("content", [b"", b"garbage " * 100, gzip.compress(b"garbage " * 100)])
def test_garbage_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a"):
        read_volume(path)


def test_a_nifti_name_that_lies_about_gzip_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, ".nii")
    path.rename(tmp_path / "b.nii.gz")
    with pytest.raises(VolumeError, match=r"name it \.nii"):
        read_volume(tmp_path / "b.nii.gz")


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    path, array = saved(tmp_path, ".nii.gz")
    path.rename(tmp_path / "B.NII.GZ")
    assert np.array_equal(read_volume(tmp_path / "B.NII.GZ").array, array)


def test_a_series_of_a_file_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, ".nii")
    with pytest.raises(InputError, match="DICOM folder"):
        read_volume(path, series="1.2.3")
    with pytest.raises(InputError, match="is no DICOM"):
        read_volume(path, series={"Modality": "CT"})


def test_an_npz_is_read_with_its_geometry(tmp_path: Path) -> None:
    array = voxels(dtype=np.uint8)
    path = tmp_path / "a.npz"
    direction = OBLIQUE.ravel()
    np.savez(path, imgs=array, spacing=SPACING_XYZ_MM, origin=ORIGIN_MM, direction=direction)
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert volume.spacing_mm == SPACING_XYZ_MM[::-1]
    assert volume.origin_mm == ORIGIN_MM
    assert volume.direction == tuple(direction)


def test_an_npz_without_geometry_is_a_millimetre_grid(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", imgs=voxels(dtype=np.uint8), gts=voxels())
    volume = read_volume(tmp_path / "a.npz")
    assert volume.spacing_mm == (1, 1, 1)
    assert volume.origin_mm == (0, 0, 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imgs": voxels()}, "int16"),
        ({"imgs": voxels((4, 5, 6, 3), np.uint8)}, "three axes"),
        ({"image": voxels(dtype=np.uint8)}, "image"),
        ({"imgs": voxels(dtype=np.uint8), "spacing": [1, 2]}, "spacing"),
        ({"imgs": voxels(dtype=np.uint8), "spacing": ["1", "2", "3"]}, "spacing"),
        ({"imgs": voxels(dtype=np.uint8), "spacing": [1, 0, 1]}, "spacing"),
    ],
)
def test_an_unusable_npz_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(VolumeError, match=message):
        read_volume(tmp_path / "a.npz")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", imgs=np.array([Payload(trace)], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Payload(trace)))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(VolumeError, match="pickle"):
            read_volume(tmp_path / name)
    assert not trace.exists()


def test_archives_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("imgs", b"hello")
    with (tmp_path / "b.npz").open("wb") as stream:
        np.save(stream, voxels(dtype=np.uint8))
    np.savez(tmp_path / "c.npz", imgs=voxels(dtype=np.uint8))
    whole = bytearray((tmp_path / "c.npz").read_bytes())
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    whole[150] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(whole)
    whole[150] ^= 0xFF
    for flags in (6, whole.index(b"PK\x01\x02") + 8):
        whole[flags] |= 1  # says that the member is encrypted
    (tmp_path / "e.npz").write_bytes(whole)
    for name in ("a.npz", "b.npz", "c.npz", "d.npz", "e.npz"):
        with pytest.raises(VolumeError):
            read_volume(tmp_path / name)


def test_a_promise_allocates_nothing_before_it_is_known_to_be_kept(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 65536 65536 65536\nendian: little\n"
        b"encoding: gzip\n\n" + gzip.compress(bytes(5000))
    )
    (tmp_path / "a.mha").write_bytes(
        b"NDims = 3\nDimSize = 65536 65536 65536\nElementType = MET_SHORT\n"
        b"CompressedData = True\nElementDataFile = LOCAL\n" + zlib.compress(bytes(5000))
    )
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"], header["vox_offset"] = [3, 32767, 32767, 32767, 1, 1, 1, 1], 352
    content = header.binaryblock[:344] + b"n+1\0" + bytes(5000)
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for path in tmp_path.iterdir():
        tracemalloc.start()
        with pytest.raises(VolumeError, match="cut short"):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_whole_voxels_are_held_once(tmp_path: Path) -> None:
    array = np.zeros((40, 256, 256), np.int16)
    for suffix, compressed in ((".nii", False), (".nii.gz", True), (".nrrd", True), (".mha", True)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{suffix}"), compressed)
        tracemalloc.start()
        volume = read_volume(tmp_path / f"a{suffix}")
        assert tracemalloc.get_traced_memory()[1] < volume.array.nbytes + (3 << 20)
        tracemalloc.stop()


@pytest.mark.parametrize("setting", [True, False])
def test_itks_own_warnings_are_put_back(setting: bool) -> None:
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        sitk.ProcessObject.SetGlobalWarningDisplay(setting)
        with quiet():
            assert not sitk.ProcessObject.GetGlobalWarningDisplay()
        assert sitk.ProcessObject.GetGlobalWarningDisplay() is setting
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def test_arrays_become_volumes_without_a_copy() -> None:
    array = voxels()
    volume = Volume.from_array(array, [3, 2, 1], modality="MR")
    assert volume.array is array
    assert (volume.spacing_mm, volume.shape, volume.modality) == ((3, 2, 1), (4, 5, 6), "MR")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5)), np.zeros((0, 4, 5)), np.zeros((4, 5, 6), bool), np.full((1, 1, 1), "a")],
)
def test_an_array_that_is_no_volume_is_refused(array: np.ndarray) -> None:
    with pytest.raises(VolumeError, match="found"):
        Volume.from_array(array)


@pytest.mark.parametrize(
    "geometry",
    [
        {"spacing_mm": (1, 1, 0)},
        {"spacing_mm": (1, 1, -1)},
        {"spacing_mm": (1, 1, np.inf)},
        {"spacing_mm": (1, 1)},
        {"origin_mm": (0, np.nan, 0)},
        {"direction": (1, 0, 0, 0, 1, 0)},
        {"direction": (1, 0, 0, 0, 1, 0, 0, 0, 0)},
        {"direction": (1, 0.01, 0, 0, 1, 0, 0, 0, 1)},
    ],
)
def test_a_geometry_that_is_no_grid_is_refused(geometry: dict[str, Any]) -> None:
    with pytest.raises(VolumeError):
        Volume(voxels(), **{"spacing_mm": (1.0, 1.0, 1.0), **geometry})


def test_a_volume_and_its_image_are_the_same() -> None:
    for dtype, expected in ((np.float16, np.float32), (">i2", np.int16), (np.uint8, np.uint8)):
        direction = tuple(OBLIQUE.ravel().tolist())
        volume = Volume(voxels(dtype=dtype), (2.5, 0.85, 0.7), ORIGIN_MM, direction)
        again = Volume.from_image(volume.to_image(), "CT", "there")
        assert again.array.dtype == expected
        assert np.array_equal(again.array, volume.array)
        assert (again.spacing_mm, again.origin_mm) == (volume.spacing_mm, volume.origin_mm)
        assert again.direction == direction
        assert (again.modality, again.source) == ("CT", "there")
    with pytest.raises(VolumeError, match="2-D"):
        Volume.from_image(sitk.Image([3, 4], sitk.sitkUInt8))


@pytest.mark.parametrize("error", [OSError(36, "File name too long"), PermissionError(13, "no")])
def test_what_the_system_says_of_a_path_is_a_volume_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(VolumeError, match="cannot be read"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes that have names")
@pytest.mark.parametrize("name", ["a.dcm", "a", "a.png"])
def test_a_pipe_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Between the question what it is and the opening of it; a pipe that nobody writes into never answers."""
    os.mkfifo(tmp_path / name)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    read = read_images if name == "a.png" else read_volume
    code = f"the pipe {name} was opened as if it were a file"
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: pytest.fail(code))
    with pytest.raises(InputError, match="no plain file"):
        read(tmp_path if name == "a.png" else tmp_path / name)
