"""What a DICOM file says of itself, and where its pixels lie in it."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from runtime.errors import SeriesError
from runtime.files.plain_file import open_plain
from runtime.io.dicom.bounded import BoundedFile
from runtime.io.dicom.elements import check_whole, shown, text
from runtime.io.dicom.transfer_syntax import (
    HEAD_BYTES,
    SYNTAXES,
    TransferSyntax,
    first_element,
    guess_syntax,
    not_read,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TRANSFER_SYNTAX, SOP_CLASS, MODALITY, SERIES = 0x00020010, 0x00080016, 0x00080060, 0x0020000E
IMAGE_TYPE, THICKNESS, SLICE_SPACING = 0x00080008, 0x00180050, 0x00180088
POSITION, ORIENTATION, PIXEL_SPACING = 0x00200032, 0x00200037, 0x00280030
SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS = (0x00280000 + n for n in (2, 4, 6, 8, 16, 17))
ALLOCATED, STORED, HIGH_BIT, IS_SIGNED = (0x00280100 + n for n in range(4))
INTERCEPT, SLOPE, MODALITY_LUT = 0x00281052, 0x00281053, 0x00283000
LUT_DESCRIPTOR, LUT_DATA = 0x00283002, 0x00283006
PALETTE = (0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203)
DETECTORS, SLICE_VECTOR = 0x00540022, 0x00540080
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
FRAME_OF_REFERENCE = 0x00200052
CONCATENATION, PART, PARTS = 0x00209161, 0x00209162, 0x00209163
_DESCRIPTION, _MEDIA_CLASS = 0x0008103E, 0x00020002
SERIES_NUMBER = 0x00200011
WANTED = [
    *(
        IMAGE_TYPE,
        SOP_CLASS,
        MODALITY,
        _DESCRIPTION,
        THICKNESS,
        SLICE_SPACING,
        SERIES,
        SERIES_NUMBER,
    ),
    *(
        FRAME_OF_REFERENCE,
        POSITION,
        ORIENTATION,
        SAMPLES,
        PHOTOMETRIC,
        PLANAR,
        FRAMES,
        ROWS,
        COLUMNS,
        PIXEL_SPACING,
    ),
    *(ALLOCATED, STORED, HIGH_BIT, IS_SIGNED, INTERCEPT, SLOPE, MODALITY_LUT, *PALETTE),
    *(DETECTORS, SLICE_VECTOR, SHARED_GROUPS, FRAME_GROUPS, CONCATENATION, PART, PARTS),
]
_FLOAT_PIXELS, _DOUBLE_PIXELS, _PIXELS = 0x7FE00008, 0x7FE00009, 0x7FE00010
# VRs whose length takes four bytes after two reserved ones (PS3.5 table 7.1-1), of pixels.
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_UNDEFINED = 0xFFFFFFFF
# SOP classes of objects that are no images of a patient (PS3.4 annex B.5): presentation states,
# waveforms, raw data and segmentations, structured reports, documents, radiotherapy.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = tuple(_STORAGE + branch for branch in ("11.", "9.", "66", "88.", "104.", "481."))
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_CHUNK_BYTES = 1 << 16
# Of a deflated file this much is looked at for its header.
_DEFLATED_HEADER_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Header:
    """A header, and its pixels' place in the file, or in what the file inflates to.

    Attributes:
        path: of the file.
        syntax: its transfer syntax.
        dataset: the elements that were asked for, up to the pixel data.
        pixel_at: of the first byte of the value of the pixel data.
        pixel_bytes: its length; None where it is encapsulated.
        pixel_vr: its VR, "" where the file has none.
    """

    path: Path
    syntax: TransferSyntax
    dataset: Dataset
    pixel_at: int
    pixel_bytes: int | None
    pixel_vr: str

    @property
    def sop_class(self) -> str:
        """The SOP class UID."""
        return text(self.dataset, SOP_CLASS)

    @property
    def series(self) -> str:
        """The series instance UID."""
        return text(self.dataset, SERIES)

    @property
    def modality(self) -> str | None:
        """DICOM's word for it."""
        return text(self.dataset, MODALITY) or None

    @property
    def description(self) -> str:
        """The series description, for messages."""
        return self.words(_DESCRIPTION)

    def words(self, tag: int) -> str:
        """An element's text in its own character set, "" where there is none; of a name, as it is spelt in letters."""
        try:
            with warnings.catch_warnings(action="ignore"):
                element = self.dataset[tag]
                value = str(element.value or "")
            value = value.partition("=")[0] if element.VR == "PN" else value
        except Exception:  # a character set that means nothing, or no such element
            value = text(self.dataset, tag)
        return value.encode("utf-8", "replace").decode()

    @contextmanager
    def pixel_stream(self, promised: int) -> Iterator[BinaryIO]:
        """The file at the first byte of its pixels, of which `promised` bytes may be inflated."""
        with open_plain(self.path) as stream:
            if not self.syntax.is_deflated:
                stream.seek(self.pixel_at)
                yield stream
                return
            _, _, start = _read_meta(BoundedFile(stream), self.path)
            stream.seek(start)
            # Some bytes may follow the pixels: padding, signatures.
            inflated = _inflate(stream, self.pixel_at + promised + _CHUNK_BYTES, self.path)
            inflated.seek(self.pixel_at)
            yield inflated


def is_image_class(sop_class: str) -> bool:
    """Whether objects of this class are images of a patient; unknown classes are taken for it."""
    return not sop_class.startswith(_NOT_IMAGES)


def read_header(path: Path, tags: Collection[int] | None = WANTED) -> Header | None:
    """The header of an image, or None for an object without pixels (a report, a DICOMDIR).

    `tags` are the elements that are read; None reads all of them.
    Raises SeriesError for what is no DICOM, or is damaged or cut short; OSError passes through.
    """
    if not path.is_file():
        raise SeriesError(f"{path} is no file, or a pipe or device; wanted DICOM")
    with open_plain(path) as stream:
        try:
            with warnings.catch_warnings(action="ignore"):
                return _read_header(BoundedFile(stream), path, tags)
        except (SeriesError, MemoryError):
            raise
        except Exception as error:  # as in `refusing`
            raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _read_header(stream: BoundedFile, path: Path, tags: Collection[int] | None) -> Header | None:
    from pydicom.filereader import read_dataset

    meta, syntax, start = _read_meta(stream, path)
    if syntax is None:
        raise SeriesError(f"{path} is stored in {not_read(text(meta, TRANSFER_SYNTAX))}")
    stream.seek(start)
    if start == stream.size:
        raise _damaged(path, "it ends before its data set")
    if syntax.is_deflated:
        header_bytes = _inflate(stream, _DEFLATED_HEADER_BYTES, path, is_all=False)
        stream = BoundedFile(header_bytes)
    dataset = read_dataset(
        cast(BinaryIO, stream),
        syntax.is_implicit,
        syntax.is_little,
        stop_when=lambda tag, vr, length: tag in (_FLOAT_PIXELS, _DOUBLE_PIXELS, _PIXELS),
        specific_tags=None if tags is None else list(tags),
    )
    check_whole(dataset)
    element = stream.read(12)
    if len(element) < 8:
        check_whole(meta)
        _check_without_pixels(stream, meta, dataset, path)
        return None
    order = "<" if syntax.is_little else ">"
    group, number = struct.unpack_from(f"{order}HH", element)
    if (group << 16 | number) in (_FLOAT_PIXELS, _DOUBLE_PIXELS):
        raise SeriesError(
            f"{path} holds pixels as floats ({group:04x}|{number:04x}); wanted integers"
        )
    if (group << 16 | number) != _PIXELS:
        raise _damaged(path, f"its elements cannot be followed beyond ({group:04x}|{number:04x})")
    vr, at, length = _value_of(element, stream.tell() - len(element), order)
    if length == _UNDEFINED:
        return Header(path, syntax, dataset, at, None, vr)
    if not syntax.is_deflated and at + length > stream.size:
        raise _damaged(
            path, f"its pixels should end at byte {at + length}, it ends at {stream.size}"
        )
    return Header(path, syntax, dataset, at, length, vr)


def _value_of(element: bytes, at: int, order: str) -> tuple[str, int, int]:
    """VR, place and length of the value of the element that begins with these bytes."""
    if element[4:6] in _LONG_VRS and len(element) == 12:
        return element[4:6].decode(), at + 12, struct.unpack_from(f"{order}I", element, 8)[0]
    return "", at + 8, struct.unpack_from(f"{order}I", element, 4)[0]


def _read_meta(stream: BoundedFile, path: Path) -> tuple[Dataset, TransferSyntax | None, int]:
    """File meta information, transfer syntax (None if not read here), and where the data set begins."""
    from pydicom.filereader import read_dataset

    stream.seek(0)
    start = first_element(stream.read(HEAD_BYTES))
    if start is None:
        raise SeriesError(f"{path} is not an image, or not one that can be read: it is no DICOM")
    stream.seek(start)
    meta = read_dataset(
        cast(BinaryIO, stream), False, True, stop_when=lambda tag, *_: tag >> 16 != 2
    )
    _check_vrs(meta, path)
    start = stream.tell()
    uid = text(meta, TRANSFER_SYNTAX)
    return meta, SYNTAXES.get(uid) if uid else guess_syntax(stream.read(8)), start


def _check_vrs(meta: Dataset, path: Path) -> None:
    """Raise SeriesError for elements of file meta information that are said to be what DICOM does not know.

    Group 0002 is explicit always, and gets no further VRs (PS3.10 section 7.1).
    """
    from pydicom.valuerep import VR

    for element in meta.elements():
        if element.VR is not None and element.VR not in VR.__members__:
            raise _damaged(path, f"({shown(element.tag)}) has the VR {element.VR!r}")


def _check_without_pixels(stream: BoundedFile, meta: Dataset, dataset: Dataset, path: Path) -> None:
    """Raise SeriesError unless an object without pixels is whole, and of a class that has none."""
    said = {text(meta, _MEDIA_CLASS), text(dataset, SOP_CLASS)} - {""}
    sop_class = said.pop() if len(said) == 1 else ""
    is_image = sop_class.startswith(_STORAGE) and is_image_class(sop_class)
    if is_image or not _UID.fullmatch(sop_class):
        raise _damaged(path, "it ends before its pixels")
    if stream.tell() > stream.size:
        raise _damaged(path, "one of its elements is longer than what is there")


def _damaged(path: Path, why: str) -> SeriesError:
    return SeriesError(
        f"{path} cannot be read as DICOM: cut short or damaged ({why}); copy it again, or take it out of the folder"
    )


def _inflate(
    stream: BinaryIO | BoundedFile, limit: int, path: Path, is_all: bool = True
) -> BytesIO:
    """What the rest of a stream inflates to; its first `limit` bytes are enough unless `is_all`. Raises SeriesError."""
    inflater, out = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO()
    while not inflater.eof and out.tell() < limit:
        chunk = inflater.unconsumed_tail or stream.read(_CHUNK_BYTES)
        if not chunk:
            raise _damaged(path, "its deflated data has no end")
        try:
            out.write(inflater.decompress(chunk, limit - out.tell()))
        except zlib.error as error:
            raise _damaged(path, str(error)) from error
    if is_all and not inflater.eof:
        raise _damaged(path, "it inflates to more than its header promises")
    out.seek(0)
    return out
