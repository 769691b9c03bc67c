"""Stored pixels of every kind against the arrays they were written from, or GDCM where a library wrote them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from runtime.errors import InputError, SeriesError, VolumeError
from runtime.files.scratch import scratch_folder
from runtime.io import read_volume
from runtime.io.dicom import read_dicom_image
from runtime.io.dicom.format import read_format
from runtime.io.dicom.header import read_header
from runtime.io.dicom.pixels import read_stored
from tests.dicoms import (
    NATIVE,
    bundled,
    group,
    pixels,
    rescaling,
    save_frames,
    save_series,
    write,
)

RNG = np.random.default_rng(11)


def some(dtype: str, bits: int, shape: tuple[int, ...] = (1, 5, 7)) -> np.ndarray:
    low, high = (-(1 << bits - 1), 1 << bits - 1) if dtype[0] == "i" else (0, 1 << bits)
    values = RNG.integers(low, high, shape).astype(dtype)
    values.flat[:2] = low, high - 1
    return values


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("u1", 8), ("i1", 8), ("u2", 16), ("i2", 16), ("u4", 32), ("i4", 32), ("u1", 5)],
)
def test_every_type_in_every_encoding(tmp_path: Path, syntax: str, dtype: str, bits: int) -> None:
    values = some(dtype, bits)
    write(tmp_path / "a.dcm", values, syntax, bits)
    found = read_dicom_image(tmp_path / "a.dcm")
    assert found.dtype == values.dtype
    assert np.array_equal(found, values[0])


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_bits_that_are_not_stored_are_dropped(tmp_path: Path, syntax: str, dtype: str) -> None:
    """Twelve bits in sixteen, the other four full of overlays, and signs to be extended."""
    values = some(dtype, 12)
    overlays = RNG.integers(0, 16, values.shape).astype(np.uint16) << 12
    stored = ((values.view(np.uint16) & 0xFFF) | overlays).view(dtype)
    write(tmp_path / "a.dcm", stored, syntax, 12)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), values[0])


def test_words_of_big_endian_hold_bytes_in_swapped_pairs(tmp_path: Path) -> None:
    values = some("u1", 8)  # of odd length

    def swap(dataset: Dataset) -> None:
        data = np.frombuffer(dataset.PixelData, np.uint8)
        dataset.PixelData = data.view(np.uint16).byteswap().tobytes()
        dataset["PixelData"].VR = "OW"

    write(tmp_path / "a.dcm", values, ExplicitVRBigEndian, 8, swap)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), values[0])


@pytest.mark.parametrize("is_planar", [False, True])
def test_colours_lie_in_pixels_or_planes(tmp_path: Path, is_planar: bool) -> None:
    values = some("u1", 8, (1, 5, 7, 3))

    def planes(dataset: Dataset) -> None:
        if is_planar:
            dataset.PlanarConfiguration = 1
            dataset.PixelData = values[0].transpose(2, 0, 1).tobytes() + b"\0"

    write(tmp_path / "a.dcm", values, ExplicitVRLittleEndian, 8, planes)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), values[0])


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000"])
def test_what_pillow_compressed_comes_out_again(tmp_path: Path, kind: str) -> None:
    values = np.add.outer(np.arange(40) * 5, np.arange(24)).astype(
        np.uint8 if kind == "jpeg" else np.uint16
    )
    stream = io.BytesIO()
    if kind == "jpeg":
        Image.fromarray(values).save(stream, "JPEG", quality=95)
    else:
        Image.fromarray(values).save(stream, "JPEG2000", irreversible=False, no_jp2=True)

    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = (
            JPEGBaseline8Bit if kind == "jpeg" else JPEG2000Lossless
        )
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].VR = "OB"

    write(tmp_path / "a.dcm", values[None], ExplicitVRLittleEndian, 8 * values.itemsize, compress)
    expected = np.asarray(Image.open(stream))
    found = read_dicom_image(tmp_path / "a.dcm")
    assert (
        np.array_equal(found, expected)
        if kind == "jpeg2000"
        else np.abs(found - expected.astype(int)).max() <= 1
    )


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("is_rgb", [False, True], ids=["JFIF", "Adobe"])
def test_colours_are_what_a_codestream_says_itself(tmp_path: Path, said: str, is_rgb: bool) -> None:
    y, x = np.mgrid[:40, :56]
    values = np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=100, subsampling=0, keep_rgb=is_rgb)
    assert (b"JFIF" in stream.getvalue()) is not is_rgb

    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PhotometricInterpretation = said
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].VR = "OB"

    write(tmp_path / "a.dcm", values[None], ExplicitVRLittleEndian, 8, compress)
    expected = np.asarray(Image.open(stream)).astype(int)
    assert np.abs(read_dicom_image(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_what_itk_compressed_without_loss_comes_out_again(
    tmp_path: Path, compressor: str, dtype: str
) -> None:
    values = some(dtype, 8 * np.dtype(dtype).itemsize, (40, 24))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.Execute(sitk.GetImageFromArray(values))
    assert dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), values)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_bytes_of_which_few_bits_are_used_are_decoded(tmp_path: Path, compressor: str) -> None:
    """GDCM refuses to decode what says so."""
    values = some("u1", 5, (40, 24))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.Execute(sitk.GetImageFromArray(values))
    dataset = dcmread(tmp_path / "a.dcm")
    dataset.BitsStored, dataset.HighBit = 5, 4
    dataset.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), values)


# Files that other programs wrote: dcmtk, GDCM, dcm4che and scanners.
BUNDLED = [
    "693_J2KI", "CT_small", "ExplVR_BigEnd", "GDCMJ2K_TextGBR", "J2K_pixelrep_mismatch", "JPEG-lossy", "JPEG2000",
    "JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "JPGExtended", "MR_small", "MR_small_RLE", "MR_small_bigendian",
    "MR_small_expb", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded",
    "SC_jpeg_no_color_transform", "SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+np",
    "SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_dcmtk_+eb+cy+s4", "SC_rgb_gdcm_KY", "SC_rgb_jls_lossy_line",
    "SC_rgb_jls_lossy_sample", "SC_rgb_jpeg_app14_dcmd", "SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_lossy_gdcm",
    "SC_rgb_rle", "SC_rgb_small_odd", "SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_jpeg",
    "SC_ybr_full_422_uncompressed", "examples_jpeg2k", "examples_overlay", "examples_palette", "examples_rgb_color",
    "image_dfl",
]  # fmt: skip


@pytest.mark.parametrize("name", BUNDLED)
def test_other_programs_files_are_read_as_itk_reads_them(name: str) -> None:
    path = bundled(f"{name}.dcm")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))[0]
    assert np.array_equal(read_dicom_image(path), theirs)


def write_palette(
    path: Path, stored: np.ndarray, syntax: str, table: np.ndarray, bits: int, first: int = 0
) -> None:
    """Red is `table`, green its reverse, blue zeros; as words (OW), whose bytes big endian swaps."""

    def edit(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        for name, values in {"Red": table, "Green": table[::-1], "Blue": 0 * table}.items():
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [len(table), first, bits])
            words = np.frombuffer(values.tobytes(), np.uint16).astype(f"{order}u2")
            setattr(dataset, f"{name}PaletteColorLookupTableData", words.tobytes())

    write(path, stored, syntax, 8 * stored.dtype.itemsize, edit)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("dtype", "bits", "shift"), [("u1", 8, 0), ("u2", 8, 0), ("u2", 16, 8), ("u2", 16, 0)]
)
def test_a_palette_is_read_in_either_order_of_bytes(
    tmp_path: Path, syntax: str, dtype: str, bits: int, shift: int
) -> None:
    """Entries of 8 bits, one or two bytes each, or of 16, of which some writers use eight."""
    stored, shades = some("u1", 8), RNG.permutation(256)
    write_palette(tmp_path / "a.dcm", stored, syntax, (shades << shift).astype(dtype), bits)
    expected = np.stack([shades, shades[::-1], 0 * shades], axis=-1)[stored[0]]
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), expected)


@pytest.mark.parametrize(("count", "first"), [(1024, 0), (256, 0), (200, 100)])
def test_values_beyond_a_palette_have_its_last_colour(
    tmp_path: Path, count: int, first: int
) -> None:
    stored = some("u2", 16)
    stored.flat[:6] = 0, 99, 100, 255, 256, 1023
    shades = RNG.integers(0, 256, count, np.uint8)
    write_palette(tmp_path / "a.dcm", stored, ExplicitVRLittleEndian, shades, 8, first)
    places = np.clip(stored[0].astype(int) - first, 0, count - 1)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm")[..., 0], shades[places])


@pytest.mark.parametrize("name", ["SC_rgb_rle_16bit", "SC_rgb_rle_32bit"])
def test_colours_of_more_than_eight_bits_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"wanted uint8 \(y, x, 3\)"):
        read_dicom_image(bundled(f"{name}.dcm"))


def codestream_of(name: str) -> tuple[Dataset, bytearray]:
    dataset = dcmread(bundled(name))
    return dataset, bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))


@pytest.mark.parametrize(
    ("name", "marker", "offset", "value"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7", 8, 0),  # columns
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7", 5, 1),  # rows
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3", 5, 255),  # rows
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3", 9, 1),  # samples
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3", 4, 24),  # bits
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 11, 63),  # columns
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 12, 1),  # rows
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 41, 0),  # samples
    ],
)
def test_a_codestream_of_another_size_than_its_file_is_refused(
    tmp_path: Path, name: str, marker: bytes, offset: int, value: int
) -> None:
    """GDCM crashes on some of these."""
    dataset, codestream = codestream_of(name)
    codestream[codestream.index(marker) + offset] = value
    dataset.PixelData = encapsulate([bytes(codestream)])
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"its codestream is of .*, and its header says"):
        read_dicom_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"])
def test_a_codestream_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    dataset, codestream = codestream_of(name)
    for length in (0, 2, 10, 30, len(codestream) // 2):
        dataset.PixelData = encapsulate([bytes(codestream[:length]) or b"\0\0"])
        dataset.save_as(tmp_path / "a.dcm")
        with pytest.raises(InputError, match=r"a\.dcm"):
            read_dicom_image(tmp_path / "a.dcm")


def by_pillow(plane: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(plane).save(stream, "JPEG", **options)
    return stream.getvalue()


def losslessly(plane: np.ndarray) -> bytes:
    """JPEG of process 14 as GDCM writes it."""
    with scratch_folder() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "a.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(plane[None]))
        dataset = dcmread(folder / "a.dcm")
        return next(generate_frames(dataset.PixelData, number_of_frames=1)).rstrip(b"\0")


GREY = RNG.integers(0, 4000, (64, 48)).astype(np.uint16)
DARK = np.where(np.arange(64)[:, None] < 40, GREY, np.uint16(0))
# What GDCM draws where data is missing.
MIDDLE = np.where(np.arange(64)[:, None] < 40, GREY, np.uint16(1 << 15))
SMOOTH = np.add.outer(60 * np.arange(64), 40 * np.arange(48)) + GREY % 9
COLOURS = np.stack([GREY // 16, SMOOTH // 32, GREY[::-1] // 16], -1).astype(np.uint8)
CUT: dict[str, tuple[str, np.ndarray, Callable[[np.ndarray], bytes]]] = {
    "lossy": (JPEGBaseline8Bit, (GREY // 16).astype(np.uint8), by_pillow),
    "progressive": (
        JPEGBaseline8Bit,
        (GREY // 16).astype(np.uint8),
        partial(by_pillow, progressive=True),
    ),
    "lossless": (JPEGLosslessSV1, GREY, losslessly),
    "lossless, dark below": (JPEGLosslessSV1, DARK, losslessly),
    "lossless, as missing below": (JPEGLosslessSV1, MIDDLE, losslessly),
}


@pytest.mark.parametrize(("syntax", "plane", "encode"), CUT.values(), ids=CUT)
def test_jpeg_that_was_cut_short_and_ends_all_the_same_is_refused(
    tmp_path: Path, syntax: str, plane: np.ndarray, encode: Callable[[np.ndarray], bytes]
) -> None:
    """GDCM draws something for what is missing, which nobody could tell from the patient."""
    whole = encode(plane)
    path = tmp_path / "a.dcm"

    def write_frames(frames: list[bytes]) -> None:
        def compress(dataset: Dataset) -> None:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.PixelData = encapsulate(frames)
            dataset["PixelData"].VR = "OB"

        stored = np.stack([plane] * len(frames))
        write(path, stored, ExplicitVRLittleEndian, 8 * plane.itemsize, compress)

    write_frames([whole])
    found = read_dicom_image(path)
    if plane.dtype == np.uint16:
        assert np.array_equal(found, plane)
    for share in (0.5, 0.6):
        left = whole[: int(share * len(whole))].rstrip(b"\xff")
        cut = left + b"\xff\xd9"
        write_frames([cut])
        with pytest.raises(InputError, match=r"a\.dcm: .* data ends before its picture does"):
            read_dicom_image(path)
        write_frames([left.ljust(len(whole), b"\0")])  # room was made for it, and never filled
        with pytest.raises(InputError, match=r"a\.dcm: .* ends before its picture"):
            read_dicom_image(path)
    for missing in (0, 6):  # an end alone is no part of the picture
        write_frames([whole[:-2] + bytes(missing)])
        assert np.array_equal(read_dicom_image(path), found)
    write_frames([whole, cut])
    with pytest.raises(InputError, match=r"a\.dcm: .*in frame 1, .*ends before its picture"):
        [*read_stored_of(path)]


def read_stored_of(path: Path) -> Iterator[np.ndarray]:
    header = read_header(path)
    assert header is not None
    return read_stored(header, read_format(header))


@pytest.mark.parametrize(
    ("syntax", "plane", "encode"),
    [
        *CUT.values(),
        (JPEGBaseline8Bit, COLOURS, by_pillow),
        (JPEGBaseline8Bit, COLOURS, partial(by_pillow, restart_marker_blocks=3)),
        (JPEGBaseline8Bit, COLOURS[..., 0], partial(by_pillow, quality=100)),
        (JPEGLosslessSV1, SMOOTH.astype(np.uint16), losslessly),
        (JPEGLosslessSV1, COLOURS[..., 1], losslessly),
    ],
    ids=[*CUT, "colours", "restarts", "fine", "lossless, smooth", "lossless, bytes"],
)
def test_jpeg_that_lacks_its_last_bytes_is_refused_unless_all_its_pixels_are_there(
    tmp_path: Path, syntax: str, plane: np.ndarray, encode: Callable[[np.ndarray], bytes]
) -> None:
    """The last pixels or the last block would be drawn from nothing."""
    whole, path = encode(plane), tmp_path / "a.dcm"
    write_codestream(path, whole, plane, syntax)
    found = read_dicom_image(path)
    for lost in range(1, 11):
        left = whole[: -2 - lost].removesuffix(b"\xff")
        for frame in (left + b"\xff\xd9", left.ljust(len(whole), b"\0"), left):
            write_codestream(path, frame, plane, syntax)
            with suppress(InputError):
                assert np.array_equal(read_dicom_image(path), found), lost
    with pytest.raises(InputError, match=r"a\.dcm: .* data ends before its picture does"):
        read_dicom_image(path)


@pytest.mark.parametrize("lost", [0, 5, -1])
def test_jpeg_2000_that_has_lost_a_tile_is_refused(tmp_path: Path, lost: int) -> None:
    stream = io.BytesIO()
    plane = (GREY // 16).astype(np.uint8)
    Image.fromarray(plane).save(stream, "JPEG2000", no_jp2=True, tile_size=(16, 16))
    whole = stream.getvalue()
    begins, at = [], whole.index(b"\xff\x90")
    while whole[at : at + 2] == b"\xff\x90":
        begins.append(at)
        at += int.from_bytes(whole[at + 6 : at + 10], "big")
    begins.append(at)
    begin, end = [*pairwise(begins)][lost]
    for codestream in (whole, whole[:begin] + whole[end:]):

        def compress(dataset: Dataset, codestream: bytes = codestream) -> None:
            dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
            dataset.PixelData = encapsulate([codestream])
            dataset["PixelData"].VR = "OB"

        write(tmp_path / "a.dcm", plane[None], ExplicitVRLittleEndian, 8, compress)
        if codestream == whole:
            assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), plane)
    with pytest.raises(InputError, match=r"a\.dcm: .*found 11 of 12 tiles"):
        read_dicom_image(tmp_path / "a.dcm")


def write_codestream(path: Path, frame: bytes, plane: np.ndarray, syntax: str) -> None:
    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"

    write(path, plane[None], ExplicitVRLittleEndian, 8 * plane.itemsize, compress)


def in_tiles(plane: np.ndarray) -> tuple[bytes, int]:
    """A codestream of JPEG 2000 in 12 tiles of a part each, and where the last part begins."""
    stream = io.BytesIO()
    Image.fromarray(plane).save(stream, "JPEG2000", no_jp2=True, tile_size=(16, 16))
    whole = stream.getvalue()
    at = last = whole.index(b"\xff\x90")
    while whole[at : at + 2] == b"\xff\x90":
        last, at = at, at + int.from_bytes(whole[at + 6 : at + 10], "big")
    assert whole[at:] == b"\xff\xd9"
    return whole, last


@pytest.mark.parametrize("zeros", [0, 6])
def test_jpeg_2000_that_lacks_its_end_alone_is_whole(tmp_path: Path, zeros: int) -> None:
    plane = (GREY // 16).astype(np.uint8)
    whole, _ = in_tiles(plane)
    write_codestream(tmp_path / "a.dcm", whole[:-2] + bytes(zeros), plane, JPEG2000Lossless)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), plane)


@pytest.mark.parametrize("lost", [1, 2, 10, 100])
@pytest.mark.parametrize("tail", ["", "zeros", "end"])
def test_jpeg_2000_that_lacks_more_than_its_end_is_refused(
    tmp_path: Path, lost: int, tail: str
) -> None:
    plane = (GREY // 16).astype(np.uint8)
    whole, _ = in_tiles(plane)
    left = whole[: -2 - lost]
    frame = {"": left, "zeros": left.ljust(len(whole), b"\0"), "end": left + b"\xff\xd9"}[tail]
    write_codestream(tmp_path / "a.dcm", frame, plane, JPEG2000Lossless)
    with pytest.raises(InputError, match=r"a\.dcm: .*cut short"):
        read_dicom_image(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("at", "value", "is_ended", "message"),
    [
        (11, 2, True, "found 1 of 2 parts of tile 11"),
        (11, 0, False, "no end of its codestream, and nothing that says how many parts"),
        (11, 0, True, ""),
    ],
)
def test_parts_of_tiles_are_as_many_as_they_say(
    tmp_path: Path, at: int, value: int, is_ended: bool, message: str
) -> None:
    plane = (GREY // 16).astype(np.uint8)
    whole, last = in_tiles(plane)
    frame = whole[: last + at] + bytes([value]) + whole[last + at + 1 :]
    frame = frame if is_ended else frame[:-2]
    write_codestream(tmp_path / "a.dcm", frame, plane, JPEG2000Lossless)
    if not message:
        assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), plane)
        return
    with pytest.raises(InputError, match=rf"a\.dcm: .*{message}"):
        read_dicom_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 6, b"\xff", b"\xff" * 3], ids=bytes.hex)
@pytest.mark.parametrize("plane", [GREY, MIDDLE, np.full_like(GREY, 1 << 15)])
def test_lossless_jpeg_may_be_padded_before_its_end(
    tmp_path: Path, plane: np.ndarray, padding: bytes
) -> None:
    whole = losslessly(plane)
    write_codestream(tmp_path / "a.dcm", whole[:-2] + padding + whole[-2:], plane, JPEGLosslessSV1)
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), plane)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("is_ended", [False, True])
def test_lossy_jpeg_of_twelve_bits_that_was_cut_short_is_refused(
    tmp_path: Path, name: str, share: float, is_ended: bool
) -> None:
    path = bundled(name)
    dataset = dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    (whole,) = generate_frames(dataset.PixelData, number_of_frames=1)
    assert next(read_stored_of(path)).max() < 1 << 12
    left = whole[: int(share * len(whole))]
    dataset.PixelData = encapsulate([left + b"\xff\xd9" if is_ended else left + bytes(50)])
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(VolumeError, match=r"a\.dcm: .*(ends before its picture|cut short)"):
        next(read_stored_of(tmp_path / "a.dcm"))


def in_fragments(path: Path, cuts: int, table: bool, is_ended: bool = True) -> np.ndarray:
    """Frames in run lengths, each in so many fragments, as an offset table may tell."""
    array = save_frames(path)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=len(array)))
    dataset.PixelData = encapsulate(frames, fragments_per_frame=cuts, has_bot=table)
    dataset.save_as(path)
    if not is_ended:
        path.write_bytes(path.read_bytes()[:-8])
    return array


def test_frames_may_be_in_fragments(tmp_path: Path) -> None:
    array = in_fragments(tmp_path / "a.dcm", 3, table=True)
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, array)


@pytest.mark.parametrize(("cuts", "table", "is_ended"), [(3, False, True), (1, True, False)])
def test_fragments_that_make_up_no_frames_are_refused(
    tmp_path: Path, cuts: int, table: bool, is_ended: bool
) -> None:
    in_fragments(tmp_path / "a.dcm", cuts, table, is_ended)
    with pytest.raises(VolumeError, match=r"fragments of|has no end"):
        read_volume(tmp_path / "a.dcm")


def test_frames_of_jpeg_are_told_apart_by_their_ends(tmp_path: Path) -> None:
    values = np.stack([np.full((16, 16), 40 * i, np.uint8) for i in range(3)])
    frames = []
    for plane in values:
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG", quality=95)
        frames.append(stream.getvalue())

    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=False)
        dataset["PixelData"].VR = "OB"
        dataset.SharedFunctionalGroupsSequence = [
            group(
                PixelMeasuresSequence={"PixelSpacing": ["1", "1"]},
                PlaneOrientationSequence={
                    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]
                },
            )
        ]
        dataset.PerFrameFunctionalGroupsSequence = [
            group(PlanePositionSequence={"ImagePositionPatient": ["0", "0", str(i)]})
            for i in range(3)
        ]

    write(tmp_path / "a.dcm", values, ExplicitVRLittleEndian, 8, compress)
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, values)


def run_lengths(segment: bytes, count: int = 1, at: int = 64) -> bytes:
    return struct.pack("<16I", count, at, *[0] * 14) + segment


def write_run_lengths(path: Path, frame: bytes) -> None:
    """5 rows of 7 bytes."""

    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = RLELossless
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"

    write(path, some("u1", 8), ExplicitVRLittleEndian, 8, compress)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (run_lengths(b"\xdf\x07"), "found 34 bytes in a segment of run lengths; wanted 35"),
        (run_lengths(b"\xdd\x07"), "found 36 bytes in a segment of run lengths; wanted 35"),
        (run_lengths(b"\x22\x07"), "found 1 bytes"),
        (run_lengths(b"\xde\x07\x05\x05"), "goes on after its last pixel"),
        (run_lengths(b"\xde\x07", count=2), "found 2 segments of run lengths; wanted 1"),
        (run_lengths(b"\xde\x07", at=66), "outside the frame"),
        (run_lengths(b"\xde\x07", at=0), "outside the frame"),
        (b"\x01\0\0\0", "have no header"),
    ],
)
def test_run_lengths_have_to_fill_the_frame_exactly(
    tmp_path: Path, frame: bytes, message: str
) -> None:
    write_run_lengths(tmp_path / "a.dcm", frame)
    with pytest.raises(InputError, match=message):
        read_dicom_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("segment", [b"\xde\x07", b"\xdf\x07\x80\0\x07", b"\xde\x07\0\0\0\0"])
def test_run_lengths_may_hold_padding_and_idle_bytes(tmp_path: Path, segment: bytes) -> None:
    write_run_lengths(tmp_path / "a.dcm", run_lengths(segment))
    assert np.array_equal(read_dicom_image(tmp_path / "a.dcm"), np.full((5, 7), 7))


def test_padding_is_not_a_value(tmp_path: Path) -> None:
    """Pixel Padding Value says what to ignore in statistics; voxels keep it."""

    def pad(dataset: Dataset, index: int) -> None:
        dataset.PixelPaddingValue = int(pixels()[0, 0, 0])

    assert np.array_equal(read_volume(_series(tmp_path, pad)).array, pixels())


def _series(folder: Path, edit: Callable[[Dataset, int], None]) -> Path:
    save_series(folder, edit)
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"RescaleSlope": "0"}, "rescale slope of 0"),
        ({"RescaleSlope": None}, "an intercept without a slope"),
        ({"RescaleIntercept": None}, "a slope without an intercept"),
        ({"RescaleSlope": "1e308"}, "beyond all numbers"),
        ({"RescaleSlope": "1e999"}, "wanted numbers"),
        ({"RescaleIntercept": "nan"}, "wanted numbers"),
        ({"RescaleIntercept": "1_0"}, "wanted numbers"),
        ({"RescaleIntercept": "1\\2"}, "wanted 1 numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which writes them all the same
def test_rescaling_that_means_nothing_is_refused(
    tmp_path: Path, edit: dict[str, str | None], message: str
) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        for keyword, value in edit.items() if index == 2 else ():
            if value is None:
                delattr(dataset, keyword)
            else:
                dataset.add_new(keyword, "LO", value)  # which pydicom writes as it is

    save_series(tmp_path, rescale)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x28\0\x52\x10LO", b"\x28\0\x52\x10DS"))
        path.write_bytes(path.read_bytes().replace(b"\x28\0\x53\x10LO", b"\x28\0\x53\x10DS"))
    with pytest.raises(SeriesError, match=rf"002\.dcm.*{message}"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, "i2"), (1, -1024, "i4"), (0.5, 0, "f8"), (3, 0, "i4"), (1e9, 0, "i8"), (1e15, 0, "f8")],
)
def test_values_are_exact_in_the_smallest_type_that_holds_them(
    tmp_path: Path, slope: float, intercept: float, dtype: str
) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    save_series(tmp_path, rescale)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, pixels().astype(np.float64) * slope + intercept)


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_table_of_values_is_looked_up(tmp_path: Path, is_signed: bool) -> None:
    """Modality LUT: entries from `first` on, the first and the last for all that lies beyond."""
    first, table = (-20, [900, 40, 7, 65535]) if is_signed else (10, [900, 40, 7, 65535])
    stored = np.array(
        [[[first - 5, first, first + 1, first + 2, first + 3, first + 4]]],
        "i2" if is_signed else "u2",
    )

    def look_up(dataset: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "SS" if is_signed else "US", [len(table), first, 16])
        item.add_new("LUTData", "OW", np.array(table, "<u2").tobytes())
        dataset.ModalityLUTSequence = [item]

    write(tmp_path / "a.dcm", stored, ExplicitVRLittleEndian, 16, look_up)
    assert read_dicom_image(tmp_path / "a.dcm").tolist() == [[900, 900, 40, 7, 65535, 65535]]


@pytest.mark.parametrize("length", [1, 5])
def test_a_table_of_another_length_than_it_says_is_refused(tmp_path: Path, length: int) -> None:
    def look_up(dataset: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [3, 0, 16])
        item.add_new("LUTData", "OW", b"\1\2" * length)
        dataset.ModalityLUTSequence = [item]

    write(tmp_path / "a.dcm", some("u2", 16), ExplicitVRLittleEndian, 16, look_up)
    with pytest.raises(InputError, match="has not the 3 entries"):
        read_dicom_image(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("dtype", "bits"), [("i2", 16), ("i2", 12), ("u2", 16), ("u2", 12), ("u1", 8), ("i1", 8)]
)
def test_white_on_black_is_turned_over_within_its_bits(
    tmp_path: Path, dtype: str, bits: int
) -> None:
    values = some(dtype, bits)

    def invert(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write(tmp_path / "a.dcm", values, ExplicitVRLittleEndian, bits, invert)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype[0] == "i" else (0, (1 << bits) - 1)
    found = read_dicom_image(tmp_path / "a.dcm")
    assert found.dtype == values.dtype
    assert np.array_equal(found, low + high - values[0].astype(int))


def test_white_on_black_is_turned_over_before_it_is_rescaled(tmp_path: Path) -> None:
    values = some("u2", 12)

    def invert(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-1000"

    write(tmp_path / "a.dcm", values, ExplicitVRLittleEndian, 12, invert)
    assert np.array_equal(
        read_dicom_image(tmp_path / "a.dcm"), 2 * (4095 - values[0].astype(int)) - 1000
    )


def test_white_on_black_is_turned_over_behind_a_table(tmp_path: Path) -> None:
    """Of a table that is no straight line, turned over before, other entries would be found."""
    table = np.array([900, 40, 7, 2000], "<u2")

    def invert(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [len(table), 0, 16])
        item.add_new("LUTData", "OW", table.tobytes())
        dataset.ModalityLUTSequence = [item]

    values = np.array([[[0, 1, 2, 3, 4]]], "u2")
    write(tmp_path / "a.dcm", values, ExplicitVRLittleEndian, 12, invert)
    assert read_dicom_image(tmp_path / "a.dcm").tolist() == [[1107, 1967, 2000, 7, 7]]


def test_frames_of_float_rescaling_are_exact(tmp_path: Path) -> None:
    def rescale(dataset: Dataset) -> None:
        dataset.SharedFunctionalGroupsSequence[0].update(group(**rescaling(0.1, 7)))

    array = save_frames(tmp_path / "a.dcm", rescale)
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, array.astype(np.float64) * 0.1 + 7)
