from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from runtime.errors import VolumeError
from runtime.io import read_volume, write_mask
from runtime.io.volumes.metaimage import DTYPES
from tests.volume_files import (
    ARRAY,
    NO_DATA_FILES,
    RAW,
    assert_as_itk_reads,
    folder_of_traps,
    swapped_for_a_link,
)

PACKED = zlib.compress(RAW)
PLAIN = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 0 0 1 1 0 0",
    "Offset": "1 2 3",
    "CenterOfRotation": "0 0 0",
    "ElementSpacing": "0.5 0.6 2",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
}
NO_PLACE = dict.fromkeys(("TransformMatrix", "Offset", "CenterOfRotation", "ElementSpacing"))


def header(data_file: str = "LOCAL", **changed: str | None) -> bytes:
    """Lines by key; None takes one away."""
    fields = {**PLAIN, **changed, "ElementDataFile": data_file}
    return "".join(
        f"{key} = {value}\n" for key, value in fields.items() if value is not None
    ).encode()


def saved(folder: Path, data: bytes = RAW, suffix: str = ".mha", **changed: str | None) -> Path:
    path = folder / f"a{suffix}"
    path.write_bytes(header(**changed) + data)
    return path


def detached(folder: Path, data_file: str, **changed: str | None) -> Path:
    path = folder / "a.mhd"
    path.write_bytes(header(data_file, **changed))
    return path


def size(data: bytes) -> str:
    return str(len(data))


GZIPPED = gzip.compress(RAW)
TEXT = " ".join(map(str, ARRAY.ravel())).encode()
READ: dict[str, tuple[dict[str, str | None], bytes]] = {
    "raw": ({}, RAW),
    "big endian": ({"BinaryDataByteOrderMSB": "True"}, ARRAY.astype(">i2").tobytes()),
    "packed": ({"CompressedData": "True", "CompressedDataSize": size(PACKED)}, PACKED),
    "packed, 1": ({"CompressedData": "1", "CompressedDataSize": size(PACKED)}, PACKED),
    "packed, t": ({"CompressedData": "t", "CompressedDataSize": size(PACKED)}, PACKED),
    "gzip": ({"CompressedData": "True", "CompressedDataSize": size(GZIPPED)}, GZIPPED),
    "data at the end": ({"HeaderSize": "-1"}, b"whatever" + RAW),
    "HeaderSize 0": ({"HeaderSize": "0"}, RAW),
    "Origin": ({"Offset": None, "Origin": "4 5 6"}, RAW),
    "Position": ({"Offset": None, "Position": "4 5 6"}, RAW),
    "Offset before Position": ({"Position": "4 5 6"}, RAW),
    "Rotation": ({"TransformMatrix": None, "Rotation": "0 0 1 1 0 0 0 1 0"}, RAW),
    "Orientation": ({"TransformMatrix": None, "Orientation": "0 0 1 1 0 0 0 1 0"}, RAW),
    "ElementSize": ({"ElementSpacing": None, "ElementSize": "3 4 5"}, RAW),
    "ElementSize beside ElementSpacing": ({"ElementSize": "3 4 5"}, RAW),
    "no place": (NO_PLACE, RAW),
    "AnatomicalOrientation alone": ({**NO_PLACE, "AnatomicalOrientation": "RAI"}, RAW),
    "a spacing alone": ({**NO_PLACE, "ElementSpacing": "3 4 5"}, RAW),
    "one channel": ({"ElementNumberOfChannels": "1"}, RAW),
    "keys of others": (
        {"Comment": "a = b", "0008|0060": "CT", "dim[0]": "3", "ITK_x": "1 2 3"},
        RAW,
    ),
    "ASCII": (
        {"BinaryData": "False", "BinaryDataByteOrderMSB": None, "CompressedData": None, **NO_PLACE},
        TEXT,
    ),
}


@pytest.mark.parametrize(("fields", "data"), READ.values(), ids=READ)
def test_what_itk_reads_is_read_alike(
    tmp_path: Path, fields: dict[str, str | None], data: bytes
) -> None:
    path = saved(tmp_path, data, **fields)
    assert np.array_equal(read_volume(path).array, ARRAY)
    if fields.get("BinaryData") != "False":  # which ITK reads from some headers only
        assert_as_itk_reads(path)


IN_MM = {
    "um": 1e-3,
    "micron": 1e-3,
    "\u00b5m": 1e-3,
    "nm": 1e-6,
    "CM": 10.0,
    "m": 1000.0,
    "Millimeters": 1.0,
    "?": 1.0,
    "": 1.0,
}


@pytest.mark.parametrize(("unit", "mm"), IN_MM.items())
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_lengths_become_millimetres_and_their_unit_again_in_masks(
    tmp_path: Path, unit: str, mm: float, suffix: str
) -> None:
    """ITK takes all of them for mm; a mask lies where its image does in viewers that do as in those that do not."""
    path = saved(tmp_path, DistanceUnits=unit)
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((2 * mm, 0.6 * mm, 0.5 * mm))
    assert volume.origin_mm == pytest.approx((1 * mm, 2 * mm, 3 * mm))
    mask = tmp_path / f"mask{suffix}"
    write_mask(mask, ARRAY.astype(np.uint8), volume)
    assert read_volume(mask).spacing_mm == pytest.approx(volume.spacing_mm)
    assert read_volume(mask).unit == volume.unit
    seen, image = (sitk.ReadImage(str(file)) for file in (mask, path))
    assert seen.GetSpacing() == pytest.approx(image.GetSpacing())
    assert seen.GetOrigin() == pytest.approx(image.GetOrigin())


def test_what_is_not_said_is_of_the_files_unit_too(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path, **NO_PLACE, DistanceUnits="cm"))
    assert (volume.spacing_mm, volume.origin_mm) == ((10, 10, 10), (0, 0, 0))


@pytest.mark.parametrize("write", [saved, partial(detached, data_file="whole.raw")])
def test_a_header_that_notepad_saved_is_read(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "whole.raw").write_bytes(RAW)
    path = write(tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert np.array_equal(read_volume(path).array, ARRAY)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_header_in_utf_16_is_refused_with_how_to_mend_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.mhd"
    path.write_bytes(header("whole.raw").decode().encode(encoding))
    with pytest.raises(VolumeError, match=r"found text in UTF-16.*wanted UTF-8"):
        read_volume(path)


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_is_itks(tmp_path: Path, name: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(DTYPES[name])
    path = saved(tmp_path, array.tobytes(), ElementType=name)
    assert np.array_equal(read_volume(path).array, array)
    assert_as_itk_reads(path)


def test_other_separators_blank_lines_and_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(
        header().replace(b"\n", b"\r\n\r\n").replace(b"Spacing =", b"Spacing:")[:-2] + RAW
    )
    assert_as_itk_reads(path)


@pytest.mark.parametrize(
    ("data_file", "fields"),
    [
        ("whole.raw", {}),
        ("./whole.raw", {}),
        ("skipped.raw", {"HeaderSize": "5"}),
        ("skipped.raw", {"HeaderSize": "-1"}),
        ("LIST\nslice01.raw\nslice02.raw", {}),
        ("LIST 2\nslice01.raw\nslice02.raw\n", {}),
        ("LIST 2D\nslice01.raw\nslice02.raw", {}),
        ("slice%02d.raw 1 2 1", {}),
        ("slice%02d.raw 1", {}),
        ("slice%02d.raw", {}),
        ("packed%d.raw 1 2 1", {"CompressedData": "True"}),
        ("LIST\npacked1.raw\npacked2.raw", {"CompressedData": "True"}),
        ("whole.zraw", {"CompressedData": "True"}),
        ("whole.zraw", {"CompressedData": "True", "CompressedDataSize": size(PACKED)}),
    ],
)
def test_data_beside_the_header_are_read_as_itk_reads_them(
    tmp_path: Path, data_file: str, fields: dict[str, str]
) -> None:
    for index in (1, 2):
        part = RAW[24 * index - 24 : 24 * index]
        (tmp_path / f"slice{index:02d}.raw").write_bytes(part)
        (tmp_path / f"packed{index}.raw").write_bytes(zlib.compress(part))
    (tmp_path / "whole.raw").write_bytes(RAW)
    (tmp_path / "whole.zraw").write_bytes(PACKED)
    (tmp_path / "skipped.raw").write_bytes(b"12345" + RAW)
    path = detached(tmp_path, data_file, **fields)
    assert np.array_equal(read_volume(path).array, ARRAY)
    assert_as_itk_reads(path)


def test_a_list_of_one_volume_is_read(tmp_path: Path) -> None:
    (tmp_path / "whole.raw").write_bytes(RAW)
    assert np.array_equal(read_volume(detached(tmp_path, "LIST 3D\nwhole.raw")).array, ARRAY)


OUTSIDE = [
    *NO_DATA_FILES,
    "",
    "%s%s%n%n.raw 1 4 1",
    "%99999d.raw 1 2 1",
    "%n",
    "slice%d.raw 1 9223372036854775807 1",
    "%d%d 1 2 1",
    "slice%d.raw 1 2 1 1",
    "slice%d.raw one two 1",
    "LIST\nslice1.raw\n../whole.raw",
    "LIST 3D\nslice1.raw\nslice2.raw",
    "LIST 0D\nslice1.raw",
    "LIST D\nslice1.raw",
    "LIST\nslice1.raw\npipe.raw",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_data_that_are_no_plain_files_in_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VolumeError):
        read_volume(detached(folder_of_traps(tmp_path), name))


@pytest.mark.parametrize("skip", ["0", "-1"])
@pytest.mark.parametrize("name", ["whole.raw", "link.raw", "LIST 3D\nwhole.raw"])
def test_a_data_file_that_becomes_a_link_once_it_was_looked_up_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, skip: str
) -> None:
    folder = swapped_for_a_link(tmp_path, monkeypatch)
    with pytest.raises(VolumeError, match="no plain file"):
        read_volume(detached(folder, name, HeaderSize=skip))


@pytest.mark.parametrize("data_file", ["short.raw", "long.raw"])
def test_data_beside_the_header_have_to_be_of_its_size(tmp_path: Path, data_file: str) -> None:
    (tmp_path / "short.raw").write_bytes(RAW[:-1])
    (tmp_path / "long.raw").write_bytes(RAW + b"\0")
    with pytest.raises(VolumeError, match=r"cut short|holds more"):
        read_volume(detached(tmp_path, data_file))


BOMB = zlib.compress(bytes(8 << 20), 9)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NDims -1": ({"NDims": "-1"}, "NDims = -1"),
    "NDims 100": ({"NDims": "100"}, "NDims = 100"),
    "no NDims": ({"NDims": None}, "NDims"),
    "NDims in words": ({"NDims": "three"}, "three"),
    "no DimSize": ({"DimSize": None}, "DimSize"),
    "a negative size": ({"DimSize": "4 -3 -2"}, "positive"),
    "a size of 0": ({"DimSize": "4 3 0"}, "positive"),
    "two sizes": ({"DimSize": "4 3"}, "one positive length"),
    "sizes with a bar": ({"DimSize": "4 3 0_2"}, "0_2"),
    "more voxels": ({"DimSize": "4 3 3"}, "cut short"),
    "fewer voxels": ({"DimSize": "4 3 1"}, "holds more"),
    "huge": ({"DimSize": "4294967296 4294967296 4294967296"}, "cut short"),
    "time": ({"NDims": "4", "DimSize": "4 3 1 2", "Offset": "0 0 0 0"}, "4 axes"),
    "a plane": ({"NDims": "2", "DimSize": "4 6"}, "2-D"),
    "three channels": ({"ElementNumberOfChannels": "3"}, "several values"),
    "arrays": ({"ElementType": "MET_SHORT_ARRAY"}, "several values"),
    "no type": ({"ElementType": None}, "ElementType"),
    "another type": ({"ElementType": "MET_STRING"}, "MET_STRING"),
    "a wider type": ({"ElementType": "MET_INT"}, "cut short"),
    "another object": ({"ObjectType": "Mesh"}, "Mesh"),
    "another truth": ({"CompressedData": "yes"}, "True or False"),
    "another order": ({"BinaryDataByteOrderMSB": "maybe"}, "True or False"),
    "two orders": ({"ElementByteOrderMSB": "True"}, "disagree"),
    "packed text": ({"BinaryData": "False", "CompressedData": "True"}, "both text"),
    "text that is none": ({"BinaryData": "False"}, "no number|cut short"),
    "a NaN spacing": ({"ElementSpacing": "nan 1 1"}, "spacing"),
    "an infinite spacing": ({"ElementSpacing": "1 inf 1"}, "spacing"),
    "a negative spacing": ({"ElementSpacing": "1 1 -1"}, "spacing"),
    "a spacing of 0": ({"ElementSpacing": "0 1 1"}, "spacing"),
    "two spacings": ({"ElementSpacing": "1 1"}, "3 numbers"),
    "a NaN origin": ({"Offset": "nan 0 0"}, "origin"),
    "a sheared matrix": ({"TransformMatrix": "1 0 0 0.3 1 0 0 0 1"}, "resample"),
    "a NaN matrix": ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "direction"),
    "eight numbers": ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "wanted 9"),
    "a lost offset": ({"Offset": None}, "lost its Offset"),
    "a lost spacing": ({"ElementSpacing": None}, "lost its ElementSpacing"),
    "a lost matrix": ({"TransformMatrix": None}, "lost its TransformMatrix"),
    "a misspelt key": ({"ElementSpacimg": "1 1 1"}, "wanted ElementSpacing"),
    "a key in small letters": ({"elementspacing": "1 1 1"}, "wanted ElementSpacing"),
    "a key of odd letters": ({"Off\u00a0set": "1 1 1"}, "Key = value"),
    "zeros in a value": ({"Comment": "a\0b"}, "Key = value"),
    "no key": ({"": "1 1 1"}, "Key = value"),
    "a slope": ({"ElementToIntensityFunctionSlope": "2"}, "slope"),
    "a unit of no length": ({"DistanceUnits": "voxels"}, "wanted mm, cm, m, um or nm"),
    "a misspelt unit": ({"DistanceUnit": "um"}, "wanted DistanceUnits"),
    "HeaderSize -2": ({"HeaderSize": "-2"}, "HeaderSize = -2"),
    "HeaderSize 5": ({"HeaderSize": "5"}, "HeaderSize = 5"),
    "the end of packed data": ({"HeaderSize": "-1", "CompressedData": "True"}, "HeaderSize"),
    "packed data that are none": ({"CompressedData": "True"}, "damaged|cut short"),
    "a bomb": ({"CompressedData": "True", "data": BOMB}, "holds more"),
    "packed and more": ({"CompressedData": "True", "data": PACKED + b"\0"}, "goes on"),
    "packed and gzip": ({"CompressedData": "True", "data": GZIPPED + GZIPPED}, "goes on"),
    "packed without its sum": ({"CompressedData": "1", "data": PACKED[:-4]}, "no end"),
    "another packed size": (
        {"CompressedData": "1", "CompressedDataSize": "9", "data": PACKED},
        "9 comp",
    ),
    "one byte more": ({"data": RAW + b"\0"}, "holds more"),
    "one byte less": ({"data": RAW[:-1]}, "cut short"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_a_header_that_contradicts_itself_or_its_data_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    fields = dict(fields)
    with pytest.raises(VolumeError, match=message):
        read_volume(saved(tmp_path, fields.pop("data", RAW), **fields))


@pytest.mark.parametrize(
    "line", ["Offset = 1 2 3", "Comment = a\nComment = a", "Offset", "ElementDataFile"]
)
def test_a_line_that_is_none_or_stands_twice_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.mha").write_bytes(f"{line}\n".encode() + header() + RAW)
    with pytest.raises(VolumeError, match=r"twice|Key = value"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize(
    "content",
    [
        b"Comment = a\n",
        b"a" * (5 << 20),
        b"".join(b"a%d = 1\n" % index for index in range(50000)),
        b"a" + b" " * (1 << 20) + b"\n",
        header().replace(b"DimSize", b"a = " + b" " * (1 << 20) + b"b\nDimSize") + RAW[:-1],
        header(f"LIST\n{'slice.raw' * 9}\n" * 20000, DimSize="1 1 20000"),
        header(NDims="40000", DimSize="1 " * 40000),
    ],
    ids=["end", "line", "lines", "blanks", "value", "files", "axes"],
)
def test_an_endless_header_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mhd").write_bytes(content)
    with pytest.raises(VolumeError):
        read_volume(tmp_path / "a.mhd")


def test_blank_lines_without_end_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(b"\n" * 1_500_000 + header() + RAW)
    with pytest.raises(VolumeError, match="more than 32768 lines"):
        read_volume(path)


@pytest.mark.parametrize("truth", ["True", "1"])
def test_a_flipped_bit_of_packed_data_is_seen_or_harmless(tmp_path: Path, truth: str) -> None:
    for at in range(len(PACKED)):
        data = bytearray(PACKED)
        data[at] ^= 1 << at % 8
        try:
            volume = read_volume(saved(tmp_path, bytes(data), CompressedData=truth))
        except VolumeError:
            continue
        assert np.array_equal(volume.array, ARRAY)
