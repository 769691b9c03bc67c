from __future__ import annotations

import gzip
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from runtime.errors import InputError, VolumeError
from runtime.io import Volume, read_volume, write_mask
from runtime.io.volumes.nifti import DTYPES, layout

SHAPE_XYZ = (6, 5, 4)
HEADERS = {1: nib.Nifti1Header, 2: nib.Nifti2Header}
IMAGES = {1: nib.Nifti1Image, 2: nib.Nifti2Image}


def rotation(seed: int) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def affine(seed: int = 1, handedness: int = 1) -> np.ndarray:
    """Voxel to RAS: turned, 0.7 x 0.85 x 2.5 mm, mirrored in x for a handedness of -1."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(seed) * (0.7 * handedness, 0.85, 2.5)
    matrix[:3, 3] = (-101.25, 33.5, 1234.125)
    return matrix


def affine_ras(volume: Volume) -> np.ndarray:
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine


def voxels(dtype: Any = np.int16) -> np.ndarray:
    """(x, y, z), as nibabel has them."""
    return np.random.default_rng(7).integers(1, 120, SHAPE_XYZ).astype(dtype)


def saved(
    folder: Path, version: int = 1, order: str = "<", suffix: str = ".nii", **fields: Any
) -> Path:
    """A file whose header holds `fields`, whatever they are."""
    header = HEADERS[version](endianness=order)
    header.set_data_dtype(fields.pop("dtype", np.int16))
    image = IMAGES[version](voxels(), affine(), header)
    image.set_sform(affine(), 1)
    image.set_qform(affine(), 1)
    path = folder / "a.nii"
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    size = len(header.binaryblock)
    record = np.frombuffer(content, header.template_dtype.newbyteorder(order), 1)[0].copy()
    for name, value in fields.items():
        record[name] = value
    content[:size] = record.tobytes()
    path.unlink()
    path = folder / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_the_layout_is_nibabels(version: int) -> None:
    ours, theirs = layout(version), HEADERS[version].template_dtype
    names = {
        "quatern": ("quatern_b", "quatern_d"),
        "qoffset": ("qoffset_x", "qoffset_z"),
        "srow": ("srow_x", "srow_z"),
        "magic": ("magic", "eol_check" if version == 2 else "magic"),
    }
    assert ours.itemsize == theirs.itemsize
    for name in ours.names or ():
        first, last = names.get(name, (name, name))
        kind, offset = ours.fields[name][:2]
        assert offset == theirs.fields[first][1]
        assert offset + kind.itemsize == theirs.fields[last][1] + theirs.fields[last][0].itemsize
        assert kind.base.kind == theirs.fields[first][0].base.kind or name == "magic"


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_every_version_byte_order_and_type_is_read(
    tmp_path: Path, version: int, order: str, dtype: str
) -> None:
    header = HEADERS[version](endianness=order)
    header.set_data_dtype(dtype)
    image = IMAGES[version](voxels(dtype), affine(), header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a" * 40))
    path = tmp_path / ("a.nii" if order == "<" else "a.nii.gz")
    nib.save(image, path)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, voxels(dtype).T)
    assert affine_ras(volume) == pytest.approx(nib.load(path).affine, rel=1e-6, abs=1e-5)
    write_mask(tmp_path / "mask.nii", np.ones((4, 5, 6), np.uint8), volume)
    assert_same_place(path, tmp_path / "mask.nii")


def assert_same_place(path: Path, mask: Path) -> None:
    """A mask has its volume's version, codes, qform, sform and affine, to the last bit."""
    theirs, ours = nib.load(path), nib.load(mask)
    assert type(ours) is type(theirs)
    names = [f"quatern_{axis}" for axis in "bcd"] + [f"qoffset_{axis}" for axis in "xyz"]
    for name in (*names, "srow_x", "srow_y", "srow_z", "qform_code", "sform_code"):
        assert np.array_equal(ours.header[name], theirs.header[name], equal_nan=True), name
    assert np.array_equal(ours.header["pixdim"][:4], theirs.header["pixdim"][:4])
    assert ours.header["xyzt_units"] == int(theirs.header["xyzt_units"]) & 7
    assert np.array_equal(ours.affine, theirs.affine)


CODES = [(q, s) for q, s in itertools.product(range(5), repeat=2)]


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize(("qform_code", "sform_code"), CODES)
def test_voxels_lie_where_nibabel_puts_them(
    tmp_path: Path, qform_code: int, sform_code: int, handedness: int
) -> None:
    image = nib.Nifti1Image(voxels(), None)
    image.header["pixdim"][1:4] = (0.7, 0.85, 2.5)
    image.set_sform(affine(1, handedness), sform_code)
    image.set_qform(affine(1, handedness), qform_code)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    theirs, volume = nib.load(path), read_volume(path)
    assert (theirs.header["qform_code"], theirs.header["sform_code"]) == (qform_code, sform_code)
    assert affine_ras(volume) == pytest.approx(theirs.affine, rel=1e-6, abs=1e-6)
    for suffix in (".nii", ".nii.gz"):
        write_mask(tmp_path / f"mask{suffix}", np.ones((4, 5, 6), np.uint8), volume)
        assert_same_place(path, tmp_path / f"mask{suffix}")
    write_mask(tmp_path / "mask.nrrd", np.ones((4, 5, 6), np.uint8), volume)
    assert affine_ras(read_volume(tmp_path / "mask.nrrd")) == pytest.approx(theirs.affine, abs=1e-9)


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize(("qform_code", "sform_code"), CODES)
def test_forms_that_disagree_are_refused_until_one_is_named(
    tmp_path: Path, qform_code: int, sform_code: int, handedness: int
) -> None:
    image = nib.Nifti1Image(voxels(), None)
    image.set_sform(affine(1), sform_code)
    image.set_qform(affine(2, handedness), qform_code)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    theirs = nib.load(path)
    if qform_code and sform_code:
        with pytest.raises(VolumeError, match=r"mm apart.*--affine qform") as caught:
            read_volume(path)
        for form in (theirs.get_qform(), theirs.get_sform()):
            assert f"{form[2, 3]}" in str(caught.value)
    else:
        assert affine_ras(read_volume(path)) == pytest.approx(theirs.affine, rel=1e-6, abs=1e-6)
    for name, code in (("qform", qform_code), ("sform", sform_code)):
        if not code:
            with pytest.raises(InputError, match=f"no {name}"):
                read_volume(path, affine=name)
            continue
        volume = read_volume(path, affine=name)
        expected = getattr(theirs, f"get_{name}")()
        assert affine_ras(volume) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        write_mask(tmp_path / "mask.nii.gz", np.ones((4, 5, 6), np.uint8), volume)
        assert_same_place(path, tmp_path / "mask.nii.gz")
        write_mask(tmp_path / "mask.mha", np.ones((4, 5, 6), np.uint8), volume)
        assert affine_ras(read_volume(tmp_path / "mask.mha")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shift_mm", "turn_rad", "refused"),
    [(0, 0, False), (2e-4, 0, False), (0, 2e-5, False), (0.05, 0, True), (0, 1e-2, True)],
)
def test_rounding_is_no_disagreement(
    tmp_path: Path, shift_mm: float, turn_rad: float, refused: bool
) -> None:
    other = affine()
    cosine, sine = np.cos(turn_rad), np.sin(turn_rad)
    other[:3, :3] = [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]] @ other[:3, :3]
    other[1, 3] += shift_mm
    image = nib.Nifti1Image(voxels(), None)
    image.set_sform(affine(), 1)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "a.nii")
    if refused:
        with pytest.raises(VolumeError, match="mm apart"):
            read_volume(tmp_path / "a.nii")
    else:
        assert read_volume(tmp_path / "a.nii").shape == (4, 5, 6)


def test_forms_of_one_affine_always_agree(tmp_path: Path) -> None:
    for seed in range(100):
        matrix = drawn_affine(seed)
        image = nib.Nifti1Image(np.zeros((400, 1, 30), np.uint8), None)
        image.set_sform(matrix, 1)
        image.set_qform(matrix, 1)
        nib.save(image, tmp_path / "a.nii")
        theirs = nib.load(tmp_path / "a.nii")
        assert affine_ras(read_volume(tmp_path / "a.nii")) == pytest.approx(theirs.affine, abs=1e-5)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_half_turn_is_not_turned_further_by_rounding(tmp_path: Path, kind: Any) -> None:
    for degrees in range(1, 90):
        tilt = np.radians(degrees)
        matrix = np.diag([-1.0, 1, 1, 1])  # as of a scan of a tilted head
        matrix[1:3, 1:3] = [[np.cos(tilt), np.sin(tilt)], [np.sin(tilt), -np.cos(tilt)]]
        image = kind(np.zeros((400, 1, 30), np.uint8), None)
        image.set_qform(matrix, 1)
        nib.save(image, tmp_path / "a.nii")
        theirs = nib.load(tmp_path / "a.nii")
        assert affine_ras(read_volume(tmp_path / "a.nii")) == pytest.approx(theirs.affine, abs=2e-7)


def drawn_affine(seed: int) -> np.ndarray:
    """Any turn, size, mirror and place."""
    # Half of them turn by nearly 180 degrees, where a quaternion's unwritten number is all rounding.
    draw = np.random.default_rng(seed)
    axis = draw.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = np.pi - (10 ** draw.uniform(-9, -2) if seed % 2 else draw.uniform(0, np.pi))
    cross = np.cross(np.eye(3), axis)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, :3] *= draw.uniform(0.2, 6, 3) * draw.choice([-1, 1], 3)
    matrix[:3, 3] = draw.uniform(-1000, 1000, 3)
    return matrix


@pytest.mark.parametrize(
    ("unit", "factor"), [(0, 1), (1, 1e3), (2, 1), (3, 1e-3), (10, 1), (27, 1e-3)]
)
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_units_of_length_go_into_millimetres_and_back(
    tmp_path: Path, codes: tuple[int, int], unit: int, factor: float
) -> None:
    path = saved(tmp_path, xyzt_units=unit, qform_code=codes[0], sform_code=codes[1])
    theirs, volume = nib.load(path), read_volume(path)
    expected = theirs.affine * [[factor], [factor], [factor], [1]]
    assert affine_ras(volume) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    write_mask(tmp_path / "mask.nii", np.ones((4, 5, 6), np.uint8), volume)
    assert_same_place(path, tmp_path / "mask.nii")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("u1", "f4"), ("i2", "f4"), ("f4", "f4"), ("i4", "f8"), ("u8", "f8"), ("f8", "f8")],
)
def test_slope_and_intercept_are_applied_as_nibabel_applies_them(
    tmp_path: Path, dtype: str, expected: str
) -> None:
    path = saved(tmp_path, dtype=dtype, scl_slope=0.3, scl_inter=-1024)
    volume = read_volume(path)
    assert volume.array.dtype == expected
    theirs = np.asarray(nib.load(path).dataobj, np.float64)
    assert volume.array == pytest.approx(theirs.T, rel=1e-6)


@pytest.mark.parametrize("scale", [(0, 5), (1, 0), (np.nan, np.nan), (np.nan, 0)])
def test_no_slope_leaves_intensities_as_they_are(
    tmp_path: Path, scale: tuple[float, float]
) -> None:
    path = saved(tmp_path, scl_slope=scale[0], scl_inter=scale[1])
    assert np.array_equal(read_volume(path).array, voxels().T)
    assert read_volume(path).array.dtype == np.int16


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "bitpix of another type": ({"bitpix": 8}, "bitpix"),
    "bitpix 0": ({"bitpix": 0}, "bitpix"),
    "a type nobody has": ({"datatype": 3}, "datatype 3"),
    "long double": ({"datatype": 1536, "bitpix": 128}, "datatype 1536"),
    "bits": ({"datatype": 1, "bitpix": 1}, "datatype 1"),
    "no axes": ({"dim": [0, 6, 5, 4, 1, 1, 1, 1]}, "0 axes"),
    "eight axes": ({"dim": [8, 6, 5, 4, 1, 1, 1, 1]}, "8 axes"),
    "negative axes": ({"dim": [-3, 6, 5, 4, 1, 1, 1, 1]}, "-3 axes"),
    "an axis of 0": ({"dim": [3, 6, 0, 4, 1, 1, 1, 1]}, "wanted 1 to 7"),
    "an axis of -5": ({"dim": [3, 6, -5, -4, 1, 1, 1, 1]}, "wanted 1 to 7"),
    "a fourth axis of 0": ({"dim": [4, 6, 5, 4, 0, 1, 1, 1]}, "wanted 1 to 7"),
    "two axes": ({"dim": [2, 6, 20, 1, 1, 1, 1, 1]}, "2-D"),
    "too many voxels": ({"dim": [3, 6, 5, 5, 1, 1, 1, 1]}, "cut short"),
    "huge": ({"dim": [7, 32767, 32767, 32767, 1, 1, 1, 1]}, "cut short"),
    "too few voxels": ({"dim": [3, 6, 5, 3, 1, 1, 1, 1]}, "holds more"),
    "time": ({"dim": [4, 6, 5, 2, 2, 1, 1, 1]}, "4 axes"),
    "vectors": ({"dim": [5, 6, 5, 2, 1, 2, 1, 1]}, "several values"),
    "voxels in the header": ({"vox_offset": 348}, "byte 348"),
    "voxels at 0": ({"vox_offset": 0}, "byte 0"),
    "voxels too late": ({"vox_offset": 368}, "cut short"),
    "voxels a bit late": ({"vox_offset": 353}, "cut short"),
    "a metre of units": ({"xyzt_units": 5}, "unit"),
    "an infinite slope": ({"scl_slope": np.inf}, "slope"),
    "a NaN intercept": ({"scl_slope": 2, "scl_inter": np.nan}, "intercept"),
    "a code of 6": ({"qform_code": 6}, "code 6"),
    "a code of -1": ({"sform_code": -1}, "code -1"),
    "NaN in the sform": ({"srow_y": np.nan}, "mm apart"),
    "infinity in both": ({"srow_y": np.inf, "qoffset_x": np.inf}, "inf mm apart"),
    "infinity in the sform alone": ({"srow_y": np.inf, "qform_code": 0}, "spacing"),
    "NaN in the sform alone": ({"srow_y": np.nan, "qform_code": 0}, "spacing"),
    "an empty sform": ({"srow_x": 0, "srow_y": 0, "srow_z": 0, "qform_code": 0}, "spacing"),
    "NaN as the sform's origin": ({"srow_y": [1, 2, 3, np.nan], "qform_code": 0}, "origin"),
    "a long quaternion": ({"quatern_b": 0.9, "quatern_c": 0.9, "sform_code": 0}, "quaternion"),
    "a NaN quaternion": ({"quatern_c": np.nan, "sform_code": 0}, "quaternion"),
    "a quaternion, with an sform": ({"quatern_c": np.nan}, "--affine sform"),
    "qfac": ({"pixdim": [2, 0.7, 0.85, 2.5, 1, 1, 1, 1], "sform_code": 0}, "qfac"),
    "no pixdim": ({"pixdim": [1, 0, 0, 0, 1, 1, 1, 1], "sform_code": 0}, "not positive"),
    "negative pixdim": ({"pixdim": [1, -1, 1, 1, 1, 1, 1, 1], "sform_code": 0}, "not positive"),
    "infinite pixdim": ({"pixdim": [1, 1, np.inf, 1, 1, 1, 1, 1], "sform_code": 0}, "not positive"),
    "NaN pixdim": (
        {"pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1], "sform_code": 0, "qform_code": 0},
        "not positive",
    ),
    "NaN as the qform's origin": ({"qoffset_x": np.nan, "sform_code": 0}, "origin"),
    "another magic": ({"magic": b"n+9"}, "not NIfTI"),
    "half of a pair": ({"magic": b"ni1"}, "pair"),
    "another size": ({"sizeof_hdr": 340}, "not NIfTI"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("fields", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str, suffix: str
) -> None:
    assert np.array_equal(read_volume(saved(tmp_path, suffix=suffix)).array, voxels().T)
    with pytest.raises(VolumeError, match=message):
        read_volume(saved(tmp_path, suffix=suffix, **fields))


HUGE = {
    "half of memory": {"dim": [3, 2**31, 2**31, 1, 1, 1, 1, 1]},
    "more than numbers": {"dim": [3, 2**62, 2**62, 2**62, 1, 1, 1, 1]},
    "far away": {"vox_offset": 2**62},
    "a late start": {"vox_offset": 2**31},
    "behind the end": {"vox_offset": 544 + 2},
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("fields", HUGE.values(), ids=HUGE)
def test_a_nifti_2_promise_that_cannot_be_kept_is_refused(
    tmp_path: Path, fields: dict[str, Any], suffix: str
) -> None:
    with pytest.raises(VolumeError, match=r"cut short|begin at byte"):
        read_volume(saved(tmp_path, 2, suffix=suffix, **fields))


def test_a_bomb_is_never_inflated(tmp_path: Path) -> None:
    header = saved(tmp_path).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header + bytes(8 << 20), 9))
    with pytest.raises(VolumeError, match="holds more"):
        read_volume(tmp_path / "b.nii.gz")


def test_a_bomb_between_header_and_voxels_is_never_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.io.volumes.nifti.MAX_PREFACE_BYTES", 4096)
    content = saved(tmp_path, 2, vox_offset=544 + 4096).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:544] + bytes(4096) + content[544:]))
    assert np.array_equal(read_volume(path).array, voxels().T)
    monkeypatch.setattr("runtime.io.volumes.nifti.MAX_PREFACE_BYTES", 4095)
    with pytest.raises(VolumeError, match="begin at byte 4640"):
        read_volume(path)


def test_several_gzip_members_and_padding_are_one_file(tmp_path: Path) -> None:
    content = saved(tmp_path).read_bytes()
    path = tmp_path / "b.nii.gz"
    packed = [gzip.compress(part) for part in (content[:100], b"", content[100:])]
    path.write_bytes(b"".join(packed) + bytes(512))
    assert np.array_equal(read_volume(path).array, voxels().T)
    for rest in (b"x", bytes(7) + b"\x1f", b"\x1f\x8b", packed[0][:-3], gzip.compress(b"x")):
        path.write_bytes(b"".join(packed) + rest)
        with pytest.raises(VolumeError):
            read_volume(path)


def test_trailing_bytes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(VolumeError, match="holds more"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".npz"])
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zeros{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(VolumeError, match="plain file"):
            read_volume(tmp_path / f"{name}{suffix}")


def test_a_name_that_hides_gzip_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, suffix=".nii.gz").rename(tmp_path / "b.nii")
    with pytest.raises(VolumeError, match=r"name it \.nii\.gz"):
        read_volume(tmp_path / "b.nii")


def test_an_affine_goes_with_nifti_alone(tmp_path: Path) -> None:
    write_mask(
        tmp_path / "a.nrrd", np.ones((1, 2, 3), np.uint8), Volume.from_array(np.ones((1, 2, 3)))
    )
    for path in (tmp_path, tmp_path / "a.nrrd"):
        with pytest.raises(InputError, match="not NIfTI"):
            read_volume(path, affine="sform")
    with pytest.raises(InputError, match="qform, sform"):
        read_volume(saved(tmp_path), affine="best")


def test_a_turn_that_float32_cannot_hold_is_written_as_nifti_2(tmp_path: Path) -> None:
    matrix = np.eye(4)
    cosine, sine = np.cos(np.pi - 1e-3), np.sin(np.pi - 1e-3)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    image = nib.Nifti2Image(np.zeros((600, 600, 1), np.uint8), None)
    image.set_qform(matrix, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    write_mask(tmp_path / "mask.nii.gz", volume.array, volume)
    assert_same_place(tmp_path / "a.nii.gz", tmp_path / "mask.nii.gz")


def test_a_volume_that_was_moved_loses_its_files_affines(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path))
    moved = replace(volume, origin_mm=(1.0, 2.0, 3.0))
    write_mask(tmp_path / "mask.nii", np.ones((4, 5, 6), np.uint8), moved)
    assert nib.load(tmp_path / "mask.nii").affine[:3, 3] == pytest.approx((-1, -2, 3))


def test_an_axis_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    labels = np.arange(40000).astype(np.uint16).reshape(1, 1, 40000)
    write_mask(tmp_path / "mask.nii.gz", labels, Volume.from_array(labels))
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert isinstance(mask, nib.Nifti2Image)
    assert np.array_equal(np.asarray(mask.dataobj), labels.T)
    assert mask.affine == pytest.approx(np.diag([-1, -1, 1, 1]))
