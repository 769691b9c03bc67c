"""Independent readers of volume files, to compare our own with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzz.seen import Seen, lps_of_ras

Oracle = Callable[[Path], Seen]
"""Reads a file or raises."""


def by_nibabel(path: Path) -> Seen:
    """NIfTI read by nibabel, whose affines are in the file's unit."""
    import nibabel

    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    if any(length != 1 for length in array.shape[3:]):
        raise ValueError(f"shape {array.shape}")
    array = array.reshape(array.shape[:3])
    unit_mm = NIFTI_UNITS_MM[image.header.get_xyzt_units()[0]]
    affine = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ image.affine
    return Seen(array.transpose(), lps_of_ras(affine))


NIFTI_UNITS_MM = {"unknown": 1.0, "meter": 1e3, "mm": 1.0, "micron": 1e-3}


def by_pynrrd(path: Path) -> Seen:
    """NRRD read by pynrrd."""
    import nrrd

    array, header = nrrd.read(str(path), index_order="C")
    affine = np.eye(4)
    directions = header.get("space directions")
    if directions is not None:
        affine[:3, :3] = np.transpose(directions)
    elif "spacings" in header:
        affine[:3, :3] = np.diag(header["spacings"])
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    space = str(header.get("space", "")).lower()
    if space in ("right-anterior-superior", "ras"):
        affine = lps_of_ras(affine)
    elif space in ("left-anterior-superior", "las"):
        affine = np.diag([1.0, -1.0, 1.0, 1.0]) @ affine
    return Seen(array, affine)


META_TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4",
    "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip


def by_the_letter(path: Path) -> Seen:
    """MetaImage read by its plainest meaning: one header, one block of data of exactly the size it says."""
    data = path.read_bytes()
    end = data.index(b"\n", data.index(b"ElementDataFile")) + 1
    fields: dict[str, str] = {}
    for line in data[:end].decode("ascii").splitlines():
        key, equals, value = line.partition("=")
        if not equals or key.strip() in fields:
            raise ValueError(line)
        fields[key.strip()] = value.strip()
    where = fields["ElementDataFile"]
    if where == "LOCAL":
        body = data[end:]
    elif re.fullmatch(r"[\w.-]+", where):
        body = (path.parent / where).read_bytes()
    else:
        body = b"".join(
            (path.parent / name).read_bytes() for name in data[end:].decode("ascii").split()
        )
    if fields.get("CompressedData", "False").lower() in ("true", "1"):
        body = zlib.decompress(body)
    order = ">" if fields.get("BinaryDataByteOrderMSB", "False").lower() in ("true", "1") else "<"
    dtype = np.dtype(order + META_TYPES[fields["ElementType"].removeprefix("MET_")])
    shape = tuple(int(side) for side in fields["DimSize"].split())
    numbers = {
        key: [float(part) for part in value.split()]
        for key, value in fields.items()
        if key in META_NUMBERS
    }
    affine = np.eye(4)
    axes = numbers.get("TransformMatrix", np.eye(3).ravel())
    affine[:3, :3] = np.reshape(axes, (3, 3)).T * numbers.get(
        "ElementSpacing", numbers.get("ElementSize", [1.0] * 3)
    )
    affine[:3, 3] = numbers.get("Offset", [0.0] * 3)
    return Seen(np.frombuffer(body, dtype).reshape(shape[::-1]), affine)


META_NUMBERS = ("TransformMatrix", "ElementSpacing", "ElementSize", "Offset")


def by_numpy(path: Path) -> Seen:
    """An npz read by numpy, with its keys as MedSAM2 writes them."""
    with np.load(path, allow_pickle=False) as archive:
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(archive["direction"], (3, 3)) * archive["spacing"]
        affine[:3, 3] = archive["origin"]
        return Seen(np.asarray(archive["imgs"]), affine)
