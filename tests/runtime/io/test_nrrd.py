from __future__ import annotations

import bz2
import codecs
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from runtime.errors import VolumeError
from runtime.io import read_volume, write_mask
from runtime.io.volumes.nrrd import DTYPES
from tests.volume_files import (
    ARRAY,
    NO_DATA_FILES,
    RAW,
    assert_as_itk_reads,
    folder_of_traps,
    swapped_for_a_link,
)

PLACE = {
    "space": "left-posterior-superior",
    "space directions": "(0.5,0,0) (0,0.6,0) (0,0,2)",
    "space origin": "(1,2,3)",
}
PLAIN = {"type": "short", "dimension": "3", "sizes": "4 3 2", "endian": "little", "encoding": "raw"}


def header(**changed: str | None) -> bytes:
    """Fields by name, with _ for a blank; None takes a field away."""
    fields: dict[str, str | None] = {**PLAIN, "space dimension": None, **PLACE}
    fields |= {name.replace("_", " "): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\n".join(["NRRD0004", *lines, ""]).encode()


def saved(folder: Path, data: bytes = RAW, **changed: str | None) -> Path:
    path = folder / "a.nrrd"
    path.write_bytes(header(**changed) + b"\n" + data)
    return path


def detached(folder: Path, data_file: str, **changed: str | None) -> Path:
    path = folder / "a.nhdr"
    path.write_bytes(header(**changed) + f"data file: {data_file}\n".encode())
    return path


TEXT = " ".join(map(str, ARRAY.ravel())).encode()
NO_PLACE: dict[str, str | None] = dict.fromkeys(name.replace(" ", "_") for name in PLACE)
READ: dict[str, tuple[dict[str, str | None], bytes]] = {
    "raw": ({}, RAW),
    "gzip": ({"encoding": "gzip"}, gzip.compress(RAW)),
    "gz": ({"encoding": "gz"}, gzip.compress(RAW)),
    "text": ({"encoding": "text"}, TEXT),
    "lines of text": ({"encoding": "txt", "endian": None}, TEXT.replace(b" ", b"\n") + b"\n"),
    "ascii": ({"encoding": "ascii"}, TEXT),
    "hex": ({"encoding": "hex"}, RAW.hex(" ", 8).encode()),
    "big endian": ({"endian": "big"}, ARRAY.astype(">i2").tobytes()),
    "big endian hex": (
        {"endian": "big", "encoding": "hex"},
        ARRAY.astype(">i2").tobytes().hex().encode(),
    ),
    "byte skip": ({"byte_skip": "5"}, b"12345" + RAW),
    "data at the end": ({"byteskip": "-1"}, b"whatever" + RAW),
    "line skip": ({"line_skip": "2"}, b"one\ntwo\n" + RAW),
    "lines and bytes": ({"lineskip": "2", "byte_skip": "3"}, b"one\ntwo\n123" + RAW),
    "byte skip in gzip": ({"encoding": "gzip", "byte_skip": "5"}, gzip.compress(b"12345" + RAW)),
    "line skip before gzip": ({"encoding": "gzip", "line_skip": "1"}, b"a\n" + gzip.compress(RAW)),
    "RAS": ({"space": "right-anterior-superior"}, RAW),
    "RAS, short": ({"space": "RAS"}, RAW),
    "LAS": ({"space": "left-anterior-superior"}, RAW),
    "scanner-xyz": ({"space": "scanner-xyz"}, RAW),
    "3D-right-handed": ({"space": "3D-right-handed"}, RAW),
    "space dimension": ({"space": None, "space_dimension": "3"}, RAW),
    "spacings": ({**NO_PLACE, "spacings": "0.5 0.6 2"}, RAW),
    "spacings and mins": ({**NO_PLACE, "spacings": "0.5 0.6 2", "axis_mins": "1 2 3"}, RAW),
    "mins of nodes": (
        {**NO_PLACE, "spacings": "0.5 0.6 2", "axismins": "1 2 3", "centerings": "node node node"},
        RAW,
    ),
    "no place at all": (NO_PLACE, RAW),
    "oblique": ({"space_directions": "(0,0.5,0) (0,0,-0.6) (2,0,0)"}, RAW),
    "a fourth axis": (
        {
            **{"dimension": "4", "sizes": "4 3 2 1", "space": None, "space_dimension": "4"},
            "space_directions": "(0.5,0,0,0) (0,0.6,0,0) (0,0,2,0) (0,0,0,1)",
            "space_origin": "(1,2,3,0)",
        },
        RAW,
    ),
    "one value in a list": (
        {
            **{"dimension": "4", "sizes": "1 4 3 2", "kinds": "list domain domain domain"},
            "space_directions": "none (0.5,0,0) (0,0.6,0) (0,0,2)",
        },
        RAW,
    ),
}


@pytest.mark.parametrize(("fields", "data"), READ.values(), ids=READ)
def test_what_itk_reads_is_read_alike(
    tmp_path: Path, fields: dict[str, str | None], data: bytes
) -> None:
    path = saved(tmp_path, data, **fields)
    volume = read_volume(path)
    assert np.array_equal(volume.array, ARRAY)
    if fields.get("dimension") != "4":
        assert_as_itk_reads(path)
    else:
        assert (volume.spacing_mm, volume.origin_mm) == ((2, 0.6, 0.5), (1, 2, 3))


IN_MM = {
    '"um" "um" "um"': 1e-3,
    '"micron" "micron" "micron"': 1e-3,
    '"µm" "\u03bcm" "Microns"': 1e-3,
    '"nm" "nm" "nm"': 1e-6,
    '"cm" "cm" "cm"': 10.0,
    '"m" "m" "m"': 1000.0,
    '"mm" "Millimeters" "mm"': 1.0,
    '"" "" ""': 1.0,
}


@pytest.mark.parametrize(("units", "mm"), IN_MM.items())
@pytest.mark.parametrize("is_plain", [False, True], ids=["directions", "spacings"])
def test_lengths_become_millimetres_and_their_unit_again_in_masks(
    tmp_path: Path, units: str, mm: float, is_plain: bool
) -> None:
    """ITK takes all of them for mm; a mask lies where its image does in viewers that do as in those that do not."""
    plain = {**NO_PLACE, "spacings": "0.5 0.6 2", "axis_mins": "0.75 1.7 2", "units": units}
    path = saved(tmp_path, **(plain if is_plain else {"space_units": units}))
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((2 * mm, 0.6 * mm, 0.5 * mm))
    assert volume.origin_mm == pytest.approx((1 * mm, 2 * mm, 3 * mm))
    write_mask(tmp_path / "mask.nrrd", ARRAY.astype(np.uint8), volume)
    seen, image = (sitk.ReadImage(str(file)) for file in (tmp_path / "mask.nrrd", path))
    assert seen.GetSpacing() == pytest.approx(image.GetSpacing())
    assert seen.GetOrigin() == pytest.approx(image.GetOrigin())
    for name in ("mask.nrrd", "mask.nii.gz", "mask.mha"):
        write_mask(tmp_path / name, ARRAY.astype(np.uint8), volume)
        assert read_volume(tmp_path / name).spacing_mm == pytest.approx(volume.spacing_mm)


@pytest.mark.parametrize("units", ["um um um", '"um", "um", "um"'])
def test_units_are_read_that_teem_does_not_read(tmp_path: Path, units: str) -> None:
    """As scripts write them."""
    assert read_volume(saved(tmp_path, space_units=units)).unit == "um"


@pytest.mark.parametrize(
    "units", ['"um" "um" "mm"', '"voxels" "voxels" "voxels"', '"s" "mm" "mm"', '"ms" "ms" "ms"']
)
def test_units_of_no_one_length_are_refused(tmp_path: Path, units: str) -> None:
    with pytest.raises(VolumeError, match=r"space units .* wanted one of mm"):
        read_volume(saved(tmp_path, space_units=units))
    with pytest.raises(VolumeError, match="wanted one"):
        read_volume(saved(tmp_path, **NO_PLACE, spacings="1 1 1", units=units))


def test_only_axes_of_space_have_lengths(tmp_path: Path) -> None:
    fields = {"dimension": "4", "sizes": "4 3 2 1", "kinds": "domain domain domain list"}
    plain = {**NO_PLACE, **fields, "spacings": "0.5 0.6 2 NaN", "units": '"um" "um" "um" "s"'}
    assert read_volume(saved(tmp_path, **plain)).unit == "um"
    with pytest.raises(VolumeError, match="found 2 units"):
        read_volume(saved(tmp_path, **{**plain, "units": "um um"}))


def test_a_header_that_notepad_saved_is_read_and_one_in_utf_16_is_not(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(codecs.BOM_UTF8 + data)
    assert np.array_equal(read_volume(path).array, ARRAY)
    path.write_bytes(data.decode("latin-1").encode("utf-16"))
    with pytest.raises(VolumeError, match=r"found text in UTF-16.*wanted UTF-8"):
        read_volume(path)


@pytest.mark.parametrize("name", DTYPES)
def test_every_name_of_a_type_is_itks(tmp_path: Path, name: str) -> None:
    array = ARRAY.astype(DTYPES[name])
    path = saved(tmp_path, array.tobytes(), type=name)
    assert np.array_equal(read_volume(path).array, array)
    assert_as_itk_reads(path)


def test_comments_and_keys_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    text = header().replace(b"\n", b"\r\n") + b"# a comment\r\nsizes:=9 9 9\r\na key:=b: c\r\n\r\n"
    path.write_bytes(text + RAW)
    assert_as_itk_reads(path)


@pytest.mark.parametrize("form", ["one", "dot", "list", "list of volumes", "pattern", "gzip list"])
def test_data_beside_the_header_are_read_as_itk_reads_them(tmp_path: Path, form: str) -> None:
    pack = gzip.compress if form.startswith("gzip") else bytes
    for index in range(2):
        (tmp_path / f"slice{index + 1:02d}.raw").write_bytes(
            pack(RAW[24 * index : 24 * index + 24])
        )
    (tmp_path / "whole.raw").write_bytes(RAW)
    encoding = "gzip" if form.startswith("gzip") else "raw"
    data_file = {
        "one": "whole.raw",
        "dot": "./whole.raw",
        "list of volumes": "LIST 3\nslice01.raw\nslice02.raw",
        "pattern": "slice%02d.raw 1 2 1 2",
    }.get(form, "LIST\nslice01.raw\nslice02.raw")
    path = detached(tmp_path, data_file, encoding=encoding)
    volume = read_volume(path)
    assert np.array_equal(volume.array, ARRAY)
    if form != "list of volumes":
        assert_as_itk_reads(path)


def test_a_name_that_is_not_ascii_is_found(tmp_path: Path) -> None:
    (tmp_path / "gr\u00f6\u00dfe 1.raw").write_bytes(RAW)
    assert np.array_equal(read_volume(detached(tmp_path, "gr\u00f6\u00dfe 1.raw")).array, ARRAY)


OUTSIDE = [
    *NO_DATA_FILES,
    "/etc/passwd",
    ".",
    "c:whole.raw",
    "a\\whole.raw",
    "%s%s%n%n.raw 0 3 1 2",
    "%99999d.raw 0 3 1 2",
    "%d%d.raw 1 2 1",
    "%x.raw 1 2 1",
    "%%d.raw 1 2 1",
    "%*d.raw 1 2 1",
    "%-5d.raw 1 2 1",
    "%ld.raw 1 2 1",
    "%s.raw",
    "/dev/fd/%d 0 1 1",
    "slice%d.raw 2 1 1",
    "slice%d.raw 1 2",
    "slice%d.raw",
    "slice%d.raw 0 9223372036854775807 1",
    "slice%d.raw -9223372036854775807 9223372036854775807 1",
    "slice%d.raw 1 2 1 0",
    "slice%d.raw 1 2 1 9",
    "slice%d.raw 1 2 1 x",
    "LIST 2 2\nslice1.raw\nslice2.raw",
    "LIST\n../whole.raw",
    "LIST\npipe.raw\nslice1.raw",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_data_that_are_no_plain_files_in_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VolumeError):
        read_volume(detached(folder_of_traps(tmp_path), name))


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "whole.raw").write_bytes(RAW)
    (tmp_path / "link.raw").symlink_to("whole.raw")
    assert np.array_equal(read_volume(detached(tmp_path, "link.raw")).array, ARRAY)


@pytest.mark.parametrize("name", ["whole.raw", "link.raw", "LIST 3\nwhole.raw"])
def test_a_data_file_that_becomes_a_link_once_it_was_looked_up_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = swapped_for_a_link(tmp_path, monkeypatch)
    with pytest.raises(VolumeError, match="no plain file"):
        read_volume(detached(folder, name))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"type": None}, "type"),
    "another type": ({"type": "shorts"}, "shorts"),
    "blocks": ({"type": "block"}, "block"),
    "no dimension": ({"dimension": None}, "dimension"),
    "dimension 2": ({"dimension": "2"}, "dimension 2"),
    "dimension -1": ({"dimension": "-1"}, "dimension -1"),
    "dimension 100": ({"dimension": "100"}, "dimension 100"),
    "no sizes": ({"sizes": None}, "sizes"),
    "a size of 0": ({"sizes": "4 0 2"}, "positive"),
    "a negative size": ({"sizes": "4 -3 -2"}, "positive"),
    "sizes in words": ({"sizes": "four 3 2"}, "four"),
    "sizes with a bar": ({"sizes": "4 3 0_2"}, "0_2"),
    "sizes in other digits": ({"sizes": "4 3 \u0662"}, "number"),
    "more voxels": ({"sizes": "4 3 3"}, "cut short"),
    "fewer voxels": ({"sizes": "4 3 1"}, "holds more"),
    "huge": ({"sizes": "4294967296 4294967296 4294967296"}, "cut short"),
    "huge, packed": ({"sizes": "4294967296 4294967296 2", "encoding": "gzip"}, "cut short"),
    "huge text": ({"sizes": "99999 99999 99999", "encoding": "text"}, "cut short"),
    "a size of many digits": ({"sizes": "9" * 5000 + " 3 2"}, "number"),
    "no encoding": ({"encoding": None}, "encoding"),
    "bzip2": ({"encoding": "bzip2", "data": bz2.compress(RAW)}, "wanted raw, gzip"),
    "no endian": ({"endian": None}, "endian"),
    "another endian": ({"endian": "middle"}, "middle"),
    "a field that is none": ({"spac_origin": "(0,0,0)"}, "no field"),
    "another space": ({"space": "left-posterior-inferior"}, "wanted left-posterior"),
    "space and time": ({"space": "left-posterior-superior-time"}, "wanted left-posterior"),
    "directions without space": ({"space": None}, "spacedimension"),
    "a flat space": ({"space": None, "space_dimension": "2"}, "vector"),
    "lost directions": ({"space_directions": None}, "no space directions"),
    "two directions": ({"space_directions": "(0.5,0,0) (0,0.6,0)"}, "one for each axis"),
    "no vector": ({"space_directions": "(0.5,0,0) 0.6 (0,0,2)"}, "one for each axis"),
    "two numbers": ({"space_directions": "(0.5,0) (0,0.6,0) (0,0,2)"}, "vector"),
    "words": ({"space_directions": "(a,0,0) (0,0.6,0) (0,0,2)"}, "means nothing"),
    "an empty number": ({"space_directions": "(,0,0) (0,0.6,0) (0,0,2)"}, "one number"),
    "NaN": ({"space_directions": "(nan,0,0) (0,0.6,0) (0,0,2)"}, "spacing"),
    "infinity": ({"space_directions": "(inf,0,0) (0,0.6,0) (0,0,2)"}, "spacing"),
    "more than numbers": ({"space_directions": "(1e300,1e300,0) (0,1,0) (0,0,1)"}, "spacing"),
    "no length": ({"space_directions": "(0,0,0) (0,0.6,0) (0,0,2)"}, "spacing"),
    "a shear": ({"space_directions": "(0.5,0,0) (0.1,0.6,0) (0,0,2)"}, "resample"),
    "a NaN origin": ({"space_origin": "(nan,0,0)"}, "origin"),
    "an origin in words": ({"space_origin": "0,0,0"}, "vector such as"),
    "a plane": ({"space_directions": "(0.5,0,0) (0,0.6,0) none"}, "2-D|several"),
    "colours": (
        {"dimension": "4", "sizes": "2 2 3 2", "space_directions": "none (1,0,0) (0,1,0) (0,0,1)"},
        "several values",
    ),
    "time": (
        {
            **{"dimension": "4", "sizes": "2 3 2 2", "space": None, "space_dimension": "4"},
            "space_directions": "(1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,1)",
            "space_origin": None,
        },
        "4 axes",
    ),
    "another kind": ({"kinds": "domain domains domain"}, "domains"),
    "two kinds": ({"kinds": "domain domain"}, "2 kinds"),
    "a negative spacing": ({**NO_PLACE, "spacings": "0.5 -0.6 2"}, "spacing"),
    "a NaN spacing": ({**NO_PLACE, "spacings": "nan 1 1"}, "spacing"),
    "a spacing of 0": ({**NO_PLACE, "spacings": "0 1 1"}, "spacing"),
    "two spacings": ({**NO_PLACE, "spacings": "1 1"}, "2 spacings"),
    "mins alone": ({**NO_PLACE, "axis_mins": "1 2 3"}, "guessed"),
    "maxs alone": ({**NO_PLACE, "axis_maxs": "1 2 3"}, "guessed"),
    "byte skip -2": ({"byte_skip": "-2"}, "byte skip -2"),
    "byte skip too far": ({"byte_skip": "9223372036854775807"}, "cut short"),
    "byte skip of a bomb": ({"byte_skip": "99999999", "encoding": "gzip"}, "at most"),
    "line skip -1": ({"line_skip": "-1"}, "line skip -1"),
    "line skip too far": ({"line_skip": "99999999999"}, "cut short"),
    "the end of gzip": ({"byte_skip": "-1", "encoding": "gzip"}, "byte skip"),
    "gzip that is none": ({"encoding": "gzip"}, "cut short|damaged"),
    "gzip without its end": ({"encoding": "gzip", "data": gzip.compress(RAW)[:-8]}, "no end"),
    "gzip with more": ({"encoding": "gzip", "data": gzip.compress(RAW) + b"more"}, "goes on"),
    "gzip of more": ({"encoding": "gzip", "data": gzip.compress(RAW + b"m")}, "holds more"),
    "a bomb": ({"encoding": "gzip", "data": gzip.compress(bytes(8 << 20), 9)}, "holds more"),
    "one byte more": ({"data": RAW + b"\0"}, "holds more"),
    "one byte less": ({"data": RAW[:-1]}, "cut short"),
    "a number less": ({"encoding": "text", "data": TEXT.rsplit(b" ", 1)[0]}, "cut short"),
    "a number more": ({"encoding": "text", "data": TEXT + b" 1"}, "holds more"),
    "a number too large": (
        {"encoding": "text", "data": b"70000" + TEXT[TEXT.index(b" ") :]},
        "no number",
    ),
    "a float too large": (
        {"type": "float", "encoding": "text", "data": b"1e39 " + b"1 " * 23},
        "no number",
    ),
    "a fraction": ({"encoding": "text", "data": b"1.5" + TEXT[TEXT.index(b" ") :]}, "no number"),
    "words as text": ({"encoding": "text", "data": b"no " * 24}, "no number"),
    "a word without end": ({"encoding": "text", "data": b"1" * 100000}, "no number"),
    "hex of no digits": ({"encoding": "hex", "data": b"zz" * 48}, "no number"),
    "half a byte": ({"encoding": "hex", "data": RAW.hex().encode() + b"0"}, "cut short"),
    "hex of more": ({"encoding": "hex", "data": RAW.hex().encode() + b"00"}, "holds more"),
    "hex of less": ({"encoding": "hex", "data": RAW.hex().encode()[:-2] + b"  "}, "cut short"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_a_header_that_contradicts_itself_or_its_data_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    fields = dict(fields)
    with pytest.raises(VolumeError, match=message):
        read_volume(saved(tmp_path, fields.pop("data", RAW), **fields))


@pytest.mark.parametrize(
    "content",
    [
        b"NRRD0004",
        b"NRRD0009\n\n",
        header().replace(b"NRRD0004", b"NRRD0007") + b"\n" + RAW,
        header() + b"type: short\n\n" + RAW,
        header() + b"\n",
        header(),
        b"NRRD0004\n" + b"a:=b\n" * 50000,
        b"NRRD0004\n" + b"a" * (5 << 20),
        header(dimension="40000", sizes="1 " * 40000) + b"\n" + RAW,
        header(space_directions="(" * 100000) + b"\n" + RAW,
    ],
    ids=[
        *("magic", "version", "seven", "twice", "no data", "no end", "lines", "one line", "axes"),
        "brackets",
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(VolumeError):
        read_volume(tmp_path / "a.nrrd")


def test_comments_without_end_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(header() + b"#\n" * 1_500_000 + b"\n" + RAW)
    with pytest.raises(VolumeError, match="more than 32768 lines"):
        read_volume(path)


def test_a_flipped_bit_of_gzip_data_is_seen_or_harmless(tmp_path: Path) -> None:
    packed = gzip.compress(RAW)
    for at in range(len(packed)):
        data = bytearray(packed)
        data[at] ^= 1 << at % 8
        try:
            volume = read_volume(saved(tmp_path, bytes(data), encoding="gzip"))
        except VolumeError:
            continue
        assert np.array_equal(volume.array, ARRAY)
