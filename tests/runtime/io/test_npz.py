from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from runtime.errors import VolumeError
from runtime.io import read_volume

IMGS = np.random.default_rng(3).integers(0, 255, (4, 5, 6)).astype(np.uint8)


def member(array: Any, **changed: Any) -> bytes:
    """The bytes of an .npy, whose header may lie."""
    stream = io.BytesIO()
    header = npy.header_data_from_array_1_0(np.asarray(array)) | changed
    npy.write_array_header_1_0(stream, header)
    return stream.getvalue() + np.asarray(array).tobytes()


def archive(folder: Path, *members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w", packing) as made:
        for name, content in members:
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_any_order_are_read(tmp_path: Path, save: Any) -> None:
    for array in (IMGS, np.asfortranarray(IMGS), IMGS[::-1, :, ::2]):
        save(tmp_path / "a.npz", imgs=array, gts=IMGS.astype(np.int16), boxes=np.zeros(3))
        assert np.array_equal(read_volume(tmp_path / "a.npz").array, array)


def test_numbers_of_other_types_are_read(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, ">f8", np.int16):
        np.savez(tmp_path / "a.npz", imgs=IMGS, spacing=np.array([1, 2, 3], dtype))
        assert read_volume(tmp_path / "a.npz").spacing_mm == (3, 2, 1)


@pytest.mark.parametrize(
    "dtype", [bool, np.float16, np.float32, np.int8, ">u2", "U3", "V4", object]
)
def test_images_that_are_not_uint8_are_refused(tmp_path: Path, dtype: Any) -> None:
    np.savez(tmp_path / "a.npz", imgs=np.zeros((4, 5, 6), dtype))
    with pytest.raises(VolumeError, match=r"dtype|pickle"):
        read_volume(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "spacing",
    [[True] * 3, ["1"] * 3, [1j] * 3, np.ones(1000), [object()] * 3, np.ones((3, 1), "M8[s]")],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, spacing: Any) -> None:
    np.savez(tmp_path / "a.npz", imgs=IMGS, spacing=spacing)
    with pytest.raises(VolumeError, match="spacing"):
        read_volume(tmp_path / "a.npz")


@pytest.mark.parametrize("key", ["spacing", "origin", "direction"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_geometry_that_is_not_finite_is_refused(tmp_path: Path, key: str, value: float) -> None:
    numbers = np.full(9 if key == "direction" else 3, value)
    np.savez(tmp_path / "a.npz", imgs=IMGS, **{key: numbers})
    with pytest.raises(VolumeError, match=key):
        read_volume(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 5, 7), "cut short"),
        ((4, 5, 5), "holds more"),
        ((2**31, 2**31, 2**31), "promises"),
        ((1 << 18, 1, 1), "promises"),
        ((0, 5, 6), "holds more"),
        ((120,), "three axes"),
        ((-4, 5, 6), "cannot be read"),
    ],
)
def test_a_shape_that_is_not_there_is_refused(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    path = archive(tmp_path, ("imgs.npy", member(IMGS, shape=shape)))
    with pytest.raises(VolumeError, match=message):
        read_volume(path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, ("imgs.npy", member(IMGS) + bytes(8 << 20)))
    with pytest.raises(VolumeError, match="holds more"):
        read_volume(path)
    # A bomb elsewhere in the archive is never touched.
    path = archive(tmp_path, ("imgs.npy", member(IMGS)), ("gts.npy", bytes(8 << 20)))
    assert np.array_equal(read_volume(path).array, IMGS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spacings.npy", member([1.0, 1, 1]), "wanted spacing"),
        ("Imgs.npy", member(IMGS), "wanted imgs"),
        ("spacing", member([1.0, 1]), "3 numbers"),
        ("spacing.npy", b"", "cannot be read"),
        ("spacing.npy", b"\x93NUMPY\x03\0\x10\0\0\0" + b" " * 16, "version"),
        ("spacing.npy", b"\x93NUMPY\x09\0\x10\0", "version"),
        ("spacing.npy", b"\x93NUMPY\x01\0\x10\0{'descr': 1}     ", "cannot be read"),
        ("spacing.npy", b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535, "cannot be read"),
    ],
)
def test_a_member_that_is_none_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = archive(tmp_path, ("imgs.npy", member(IMGS)), (name, content))
    with pytest.raises(VolumeError, match=message):
        read_volume(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name_are_refused(tmp_path: Path) -> None:
    for second in ("imgs.npy", "imgs"):
        path = archive(tmp_path, ("imgs.npy", member(IMGS)), (second, member(IMGS)))
        with pytest.raises(VolumeError, match="twice"):
            read_volume(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_packing_that_numpy_does_not_use_is_refused(tmp_path: Path, packing: int) -> None:
    path = archive(tmp_path, ("imgs.npy", member(IMGS)), packing=packing)
    with pytest.raises(VolumeError, match="packed"):
        read_volume(path)


def test_a_flipped_bit_is_seen_or_harmless(tmp_path: Path) -> None:
    spacing = [0.7, 0.8, 2.5]
    np.savez_compressed(tmp_path / "a.npz", imgs=IMGS[:2, :2], spacing=spacing)
    whole = (tmp_path / "a.npz").read_bytes()
    for at in range(0, len(whole), 2):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        (tmp_path / "a.npz").write_bytes(content)
        try:
            volume = read_volume(tmp_path / "a.npz")
        except VolumeError:
            continue
        assert np.array_equal(volume.array, IMGS[:2, :2])
        assert volume.spacing_mm == (2.5, 0.8, 0.7)
