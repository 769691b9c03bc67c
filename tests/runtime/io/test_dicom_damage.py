"""Damaged DICOM headers: refused by name, before anything is allocated for what they promise."""

from __future__ import annotations

import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from runtime.errors import InputError, SeriesError
from runtime.io import read_volume
from runtime.io.dicom.format import read_format
from runtime.io.dicom.header import read_header
from runtime.io.dicom.pixels import read_stored
from tests.dicoms import NATIVE, decimals, group, pixels, rescaling, save_frames, save_series, write

MOST_BYTES = 20_000_000
ENCODINGS = (*NATIVE, RLELossless)


@contextmanager
def within(count: int) -> Iterator[None]:
    """Fails where Python and numpy have ever held more bytes than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < count
    finally:
        tracemalloc.stop()


def save(
    path: Path, edit: Callable[[Dataset], Any] | None = None, syntax: str = ExplicitVRLittleEndian
) -> np.ndarray:
    """One slice of 6 x 8 pixels."""
    plane = pixels(1)[0]

    def place(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = ["0", "0", "0"]
        dataset.ImageOrientationPatient = decimals((1, 0, 0, 0, 1, 0))
        dataset.PixelSpacing = ["1", "1"]
        if edit:
            edit(dataset)

    write(path, plane[None], syntax, 16, place)
    return plane


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"NumberOfFrames": 2**31 - 1}, "of 2147483647 frames"),
        ({"NumberOfFrames": 2}, "found 96 bytes of pixels; wanted 192"),
        ({"NumberOfFrames": 0}, "0.0,?.* frames"),
        ({"NumberOfFrames": -1}, "-1.0,?.* frames"),
        (
            {"Rows": 65535, "Columns": 65535},
            "wanted 8589672450, of 1 frames of 65535 rows of 65535",
        ),
        ({"Rows": 5}, "found 96 bytes of pixels; wanted 80"),
        ({"Columns": 7}, "found 96 bytes of pixels; wanted 84"),
        ({"Rows": 0}, "0 rows of 8"),
        (
            {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
            "found 96 bytes of pixels; wanted 48",
        ),
        ({"BitsAllocated": 32}, "found 96 bytes of pixels; wanted 192"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsStored": 17}, "17 of 16 bits stored"),
        ({"BitsStored": 0}, "0 of 16 bits stored"),
        ({"BitsStored": 12}, "high bit 15 of 12"),
        ({"HighBit": 3}, "high bit 3 of 16"),
        ({"PixelRepresentation": 2}, "pixel representation 2"),
        ({"SamplesPerPixel": 2, "PlanarConfiguration": 0}, "2 samples of 'MONOCHROME2'"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, "1 samples of 'MONOCHROME3'"),
        ({"PixelRepresentation": None}, r"no number of two bytes in \(0028\|0103\)"),
        ({"Rows": None}, r"no number of two bytes in \(0028\|0010\)"),
    ],
)
def test_numbers_that_do_not_agree_are_refused(
    tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    def change(dataset: Dataset) -> None:
        for keyword, value in edit.items():
            delattr(dataset, keyword) if value is None else setattr(dataset, keyword, value)

    save(tmp_path / "a.dcm", change)
    with within(MOST_BYTES), pytest.raises(SeriesError, match=rf"a\.dcm.*{message}"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("edit", [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}])
def test_a_small_file_does_not_hold_a_huge_image(
    tmp_path: Path, edit: dict[str, int], syntax: str
) -> None:
    """GDCM took minutes and gigabytes to find that out."""

    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([bytes(range(100)) * 50])
        dataset["PixelData"].VR = "OB"
        for keyword, value in edit.items():
            setattr(dataset, keyword, value)

    save(tmp_path / "a.dcm", change)
    with within(MOST_BYTES), pytest.raises(SeriesError, match="more than any scan shrinks by"):
        read_volume(tmp_path / "a.dcm")


def test_run_lengths_are_not_unpacked_beyond_the_frame(tmp_path: Path) -> None:
    """A segment of 8 MB would stand for 500 MB."""

    def change(dataset: Dataset) -> None:
        segment = b"\x81\x05" * (1 << 22)
        header = struct.pack("<16I", 2, 64, 64 + len(segment) // 2, *[0] * 13)
        dataset.PixelData = encapsulate([header + segment])

    save(tmp_path / "a.dcm", change, RLELossless)
    with within(4 * MOST_BYTES), pytest.raises(InputError, match="run lengths"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("zeros", [1 << 25, 1 << 27], ids=["after the pixels", "before the pixels"])
def test_a_deflated_file_is_not_inflated_without_end(tmp_path: Path, zeros: int) -> None:
    save(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    meta_end = content.index(b"\x08\0\x16\0UI")
    meta = content[:meta_end].replace(
        b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99"
    )
    rest = content[meta_end:]
    if zeros == 1 << 25:
        rest = rest + b"\0" * zeros
    else:
        rest = struct.pack("<HH2sHI", 8, 1, b"UN", 0, zeros) + b"\0" * zeros + rest
    packer = zlib.compressobj(wbits=-15)
    (tmp_path / "a.dcm").write_bytes(meta + packer.compress(rest) + packer.flush())
    assert (tmp_path / "a.dcm").stat().st_size < 1 << 18
    with within(10 * MOST_BYTES), pytest.raises(InputError, match=r"a\.dcm"):
        read_volume(tmp_path / "a.dcm")


def insert(path: Path, before: bytes, new: bytes) -> None:
    content = path.read_bytes()
    at = content.index(before)
    path.write_bytes(content[:at] + new + content[at:])


ROWS = b"\x28\0\x10\0US"


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0x7FFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("vr", [b"UN", b"OB", b"SQ", b"UT"])
def test_an_element_of_absurd_length_is_refused(tmp_path: Path, vr: bytes, length: int) -> None:
    save(tmp_path / "a.dcm")
    insert(tmp_path / "a.dcm", ROWS, struct.pack("<HH2sHI", 0x0028, 0x0009, vr, 0, length))
    with within(MOST_BYTES), pytest.raises(SeriesError, match=r"a\.dcm cannot be read as DICOM"):
        read_volume(tmp_path / "a.dcm")


def test_a_wanted_element_of_absurd_length_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    for tag in (b"\x28\0\x30\0DS", b"\x20\0\x0e\0UI"):
        at = content.index(tag) + 6
        (tmp_path / "a.dcm").write_bytes(content[:at] + b"\xfe\xff" + content[at + 2 :])
        with pytest.raises(SeriesError, match=r"a\.dcm cannot be read as DICOM"):
            read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("depth", [100, 100_000])
def test_sequences_as_deep_as_they_like_are_read_or_refused(tmp_path: Path, depth: int) -> None:
    plane = save(tmp_path / "a.dcm")
    start = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    start += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    insert(tmp_path / "a.dcm", ROWS, start * depth + end * depth)
    with within(4 * MOST_BYTES):
        if depth == 100:
            assert np.array_equal(read_volume(tmp_path / "a.dcm").array[0], plane)
        else:
            with pytest.raises(SeriesError, match=r"a\.dcm cannot be read as DICOM"):
                read_volume(tmp_path / "a.dcm")


def test_pixels_may_be_followed_by_zeros_and_elements_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    plane = save(path)
    whole = path.read_bytes()
    trailer = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 4) + b"abcd"
    for rest in (b"\0" * 300, trailer, b"\0"):
        path.write_bytes(whole + rest)
        assert np.array_equal(read_volume(path).array[0], plane)
    for rest in (b"abc", b"abcdefghijkl", trailer[:-2], whole[-40:]):
        path.write_bytes(whole + rest)
        with pytest.raises(InputError, match="what follows its pixels is no element"):
            read_volume(path)


def test_pixels_with_bytes_in_between_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    plane = save(path)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        save(path, None, syntax)
        content = path.read_bytes()
        middle = len(content) - 40
        for count in (1, 2, 9, 40):
            path.write_bytes(content[:middle] + b"\7" * count + content[middle:])
            with suppress(InputError):
                assert np.array_equal(read_volume(path).array[0], plane)
                pytest.fail("it was read")


@pytest.mark.parametrize("element", [0x0008, 0x0009])
def test_pixels_that_are_floats_are_refused(tmp_path: Path, element: int) -> None:
    save(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    at = content.index(b"\xe0\x7f\x10\0OW")
    (tmp_path / "a.dcm").write_bytes(
        content[:at] + struct.pack("<HH", 0x7FE0, element) + content[at + 4 :]
    )
    with pytest.raises(SeriesError, match=r"holds pixels as floats .* wanted integers"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("element", [0x00, 0x02, 0x10])
def test_file_meta_information_of_no_vr_is_refused(tmp_path: Path, element: int) -> None:
    path = tmp_path / "a.dcm"
    save(path, syntax=ImplicitVRLittleEndian)
    data = bytearray(path.read_bytes())
    at = data.index(bytes([2, 0, element, 0])) + 4
    data[at : at + 2] = b"TL"
    path.write_bytes(data)
    with pytest.raises(SeriesError, match=rf"damaged \(\(0002\|{element:04x}\) has the VR 'TL'"):
        read_header(path)


@pytest.mark.parametrize(
    ("uid", "message"),
    [
        (HTJ2KLossless, r"High-Throughput JPEG 2000 .*\(%s\), .*pylibjpeg-openjpeg.*decompress"),
        (HTJ2KLosslessRPCL, r"High-Throughput JPEG 2000 with RPCL .*\(%s\), .*decompress"),
        (HTJ2K, r"High-Throughput JPEG 2000 Image Compression \(%s\), .*decompress"),
        (MPEG2MPML, r"MPEG2 Main Profile / Main Level \(%s\), .*as explicit VR little endian"),
        ("1.2.840.10008.1.2.4.999", "the transfer syntax %s, which is not read; have it"),
    ],
)
def test_a_transfer_syntax_that_is_not_read_is_named(
    tmp_path: Path, uid: str, message: str
) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([b"\0" * 96])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML

    path = tmp_path / "a.dcm"
    save(path, change)
    path.write_bytes(path.read_bytes().replace(MPEG2MPML.encode(), uid.encode()))
    with pytest.raises(SeriesError, match=rf"a\.dcm is stored in .*{message % re.escape(uid)}"):
        read_volume(path)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("has_meta", [False, True])
def test_files_without_preamble_are_read(tmp_path: Path, syntax: str, has_meta: bool) -> None:
    plane = save(tmp_path / "a.dcm", None, syntax)
    content = (tmp_path / "a.dcm").read_bytes()
    start = dcmread(tmp_path / "a.dcm").file_meta.FileMetaInformationGroupLength + 144
    (tmp_path / "a.dcm").write_bytes(content[132 if has_meta else start :])
    for path in (tmp_path, tmp_path / "a.dcm"):
        assert np.array_equal(read_volume(path).array[0], plane)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.dcm"
    save(path, None, data.draw(st.sampled_from(ENCODINGS)))
    whole = path.read_bytes()
    # The last byte may be padding, of a deflated file.
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(InputError, match=r"a\.dcm"):
        read_volume(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_raise_nothing_but_input_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.dcm"
    save(path, None, data.draw(st.sampled_from(ENCODINGS)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(InputError):
        read_volume(path)


def test_slices_of_which_one_lost_its_rescaling_are_refused(tmp_path: Path) -> None:
    def forget(dataset: Dataset, index: int) -> None:
        if index == 2:
            del dataset.RescaleSlope

    save_series(tmp_path, forget)
    with pytest.raises(SeriesError, match=r"002\.dcm has an intercept without a slope"):
        read_volume(tmp_path)


@pytest.mark.parametrize("intercept", ["-1024", "0"])
def test_slices_of_which_one_says_no_rescaling_are_refused_where_it_matters(
    tmp_path: Path, intercept: str
) -> None:
    def forget(dataset: Dataset, index: int) -> None:
        dataset.RescaleIntercept = intercept
        if index == 2:
            del dataset.RescaleSlope, dataset.RescaleIntercept

    array = save_series(tmp_path, forget)
    if intercept == "0":  # which is what nothing means
        assert np.array_equal(read_volume(tmp_path).array, array)
        return
    with pytest.raises(SeriesError, match=r"^002\.dcm has no rescale slope and intercept"):
        read_volume(tmp_path)


def test_frames_of_which_one_says_no_rescaling_are_refused(tmp_path: Path) -> None:
    def rescale(dataset: Dataset) -> None:
        for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            if number != 1:
                own.update(group(**rescaling(2, -1000)))

    save_frames(tmp_path / "a.dcm", rescale)
    with pytest.raises(SeriesError, match=r"^frame 1 of a\.dcm has no rescale slope"):
        read_volume(tmp_path / "a.dcm")


def test_more_elements_than_a_header_needs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs pydicom microseconds and nothing of the file but eight bytes."""
    monkeypatch.setattr("runtime.io.dicom.bounded._LEAST_READS", 1000)
    plane = save(tmp_path / "a.dcm")
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array[0], plane)
    insert(tmp_path / "a.dcm", ROWS, struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0) * 2000)
    with pytest.raises(SeriesError, match="too many elements"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("tag", [(0x5200, 0x9230), (0x5200, 0x9229)])
def test_more_items_than_frames_can_have_are_refused(tmp_path: Path, tag: tuple[int, int]) -> None:
    """Each would become a data set of a kilobyte."""
    save(tmp_path / "a.dcm")
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 50_000
    sequence = struct.pack("<HH2sHI", *tag, b"SQ", 0, len(items)) + items
    insert(tmp_path / "a.dcm", b"\xe0\x7f\x10\0OW", sequence)
    with within(MOST_BYTES), pytest.raises(SeriesError, match="holds more than"):
        read_volume(tmp_path / "a.dcm")


def test_a_damaged_deflated_file_is_refused_at_either_reading(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm", None, DeflatedExplicitVRLittleEndian)
    header = read_header(tmp_path / "a.dcm")
    assert header is not None
    content = bytearray((tmp_path / "a.dcm").read_bytes())
    content[-60:] = b"\xff" * 60
    (tmp_path / "a.dcm").write_bytes(content)  # after its header was read
    with pytest.raises(InputError, match=r"a\.dcm"):
        list(read_stored(header, read_format(header)))
    with pytest.raises(InputError, match=r"a\.dcm"):
        read_volume(tmp_path / "a.dcm")


def test_a_message_does_not_repeat_thousands_of_numbers(tmp_path: Path) -> None:
    many = "\\".join(["1"] * 12_000).encode()
    save(tmp_path / "a.dcm", lambda dataset: dataset.pop("ImagePositionPatient"))
    content = (tmp_path / "a.dcm").read_bytes()
    at = content.index(b"\x20\x00\x37\x00DS")
    element = struct.pack("<HH2sH", 0x0020, 0x0032, b"DS", len(many) + 1) + many + b" "
    (tmp_path / "a.dcm").write_bytes(content[:at] + element + content[at:])
    with pytest.raises(SeriesError, match="found 12000 numbers") as refused:
        read_volume(tmp_path / "a.dcm")
    assert len(str(refused.value)) < 500 + len(str(tmp_path))
