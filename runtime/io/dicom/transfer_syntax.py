"""How a DICOM file begins, and in which transfer syntax it goes on."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from runtime.files.plain_file import open_plain

_PREFIX_AT, _PREFIX = 128, b"DICM"
HEAD_BYTES = _PREFIX_AT + len(_PREFIX)
# Groups with which a data set without preamble and prefix begins: file meta information, identification.
_FIRST_GROUPS = (0x0002, 0x0008)
_FIRST_BYTES = 1 << 12  # more than the value of any first element


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """A transfer syntax (PS3.5 section 10 and annex A).

    Attributes:
        name: for messages.
        is_implicit: data elements have no VR.
        is_little: their numbers are little endian.
        is_deflated: all after the file meta information is deflated.
        codec: how frames are encapsulated: "rle", "jpeg", "jpeg2000", or "" for native pixels.
        uid: its own.
    """

    name: str
    is_implicit: bool = False
    is_little: bool = True
    is_deflated: bool = False
    codec: str = ""
    uid: str = ""


_ROOT = "1.2.840.10008.1.2"
IMPLICIT = TransferSyntax("implicit little endian", is_implicit=True, uid=_ROOT)
EXPLICIT = TransferSyntax("explicit little endian", uid=f"{_ROOT}.1")
BIG_ENDIAN = TransferSyntax("explicit big endian", is_little=False, uid=f"{_ROOT}.2")
DEFLATED = TransferSyntax("deflated", is_deflated=True, uid=f"{_ROOT}.1.99")
_JPEG = {
    50: "baseline",
    51: "extended",
    53: "spectral",
    55: "progressive",
    57: "lossless",
    70: "lossless",
}
_ALL = (
    *(IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED),
    TransferSyntax("RLE", codec="rle", uid=f"{_ROOT}.5"),
    *(
        TransferSyntax(f"JPEG {kind}", codec="jpeg", uid=f"{_ROOT}.4.{n}")
        for n, kind in _JPEG.items()
    ),
    *(TransferSyntax("JPEG-LS", codec="jpeg", uid=f"{_ROOT}.4.{n}") for n in (80, 81)),
    *(TransferSyntax("JPEG 2000", codec="jpeg2000", uid=f"{_ROOT}.4.{n}") for n in (90, 91)),
)
SYNTAXES = {syntax.uid: syntax for syntax in _ALL}
BY_PYDICOM = (
    "decompress it first (pip install pylibjpeg pylibjpeg-openjpeg), in Python: "
    "from pydicom import dcmread; d = dcmread('IN.dcm'); d.decompress(); d.save_as('OUT.dcm')"
)
"""How pydicom's own decoders mend a file that is not read here."""


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10 section 7.1); a pipe is none, and is not waited for."""
    if not path.is_file():
        return False
    with open_plain(path) as stream:
        return stream.read(HEAD_BYTES)[_PREFIX_AT:] == _PREFIX


def begins_as_dicom(path: Path) -> bool:
    """The same, also of old files, which have no preamble. Raises OSError."""
    with open_plain(path) as stream:
        return first_element(stream.read(HEAD_BYTES)) is not None


def first_element(head: bytes) -> int | None:
    """Where the first data element lies in a file that begins so, or None if it is no DICOM.

    Old files have no preamble: those are known by a first element of low group and sensible length.
    """
    if head[_PREFIX_AT:HEAD_BYTES] == _PREFIX:
        return HEAD_BYTES
    return 0 if any(_begins(head, little) for little in (True, False)) else None


def guess_syntax(head: bytes) -> TransferSyntax:
    """The transfer syntax of a data set that begins so, where nothing says it."""
    if _has_vr(head):
        return EXPLICIT if _begins(head, True) else BIG_ENDIAN
    return IMPLICIT


def not_read(uid: str) -> str:
    """Of a transfer syntax that is not read, what it is called and how a file in it can be read all the same."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    name = str(UID(uid).name)
    called = uid if name == uid else f"{name} ({uid})"
    try:
        get_decoder(uid)
    except NotImplementedError:
        mend = "have it written as explicit VR little endian"
    else:
        mend = BY_PYDICOM
    return f"the transfer syntax {called}, which is not read; {mend}"


def _begins(head: bytes, is_little: bool) -> bool:
    if len(head) < 8:
        return False
    order = "<" if is_little else ">"
    group, element = struct.unpack_from(f"{order}HH", head)
    (length,) = struct.unpack_from(
        f"{order}H" if _has_vr(head) else f"{order}I", head, 6 if _has_vr(head) else 4
    )
    return group in _FIRST_GROUPS and element < 0x100 and length < _FIRST_BYTES


def _has_vr(head: bytes) -> bool:
    return head[4:6].isalpha() and head[4:6].isupper()
