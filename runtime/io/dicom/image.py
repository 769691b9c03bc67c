"""One DICOM file as a picture: grey, low values black, or colours of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, SeriesError, VolumeError
from runtime.io.dicom.elements import refusing
from runtime.io.dicom.format import PixelFormat, read_format
from runtime.io.dicom.header import PALETTE, Header, read_header
from runtime.io.dicom.pixels import read_stored
from runtime.io.dicom.values import common_type, read_modality_transforms, read_table


def holds_image(path: Path) -> bool:
    """Whether a DICOM file holds pixels, or is damaged, which reading it will tell; reports and DICOMDIRs do not."""
    try:
        return read_header(path) is not None
    except SeriesError:
        return True


def read_dicom_image(path: Path) -> NDArray[Any]:
    """The image in a file: (y, x), rescaled as its header says, or uint8 (y, x, 3).

    Where low values are white (MONOCHROME1) they are turned over within the bits that are stored, or, where there is a
    table, between the ends of that. Raises InputError.
    """
    try:
        header = read_header(path)
        if header is None:
            raise InputError(f"{path} cannot be read as a DICOM image: it holds no pixels")
        layout = read_format(header)
        if layout.frames > 1:
            raise InputError(
                f"{path} holds {layout.frames} frames; wanted one image a file: read it as a volume"
            )
        (stored,) = read_stored(header, layout)
        return _grey(stored, header, layout) if layout.is_grey else _colour(stored, header, layout)
    except (SeriesError, VolumeError) as error:
        raise InputError(f"{path} cannot be read as a DICOM image: {error}") from error


def _grey(stored: NDArray[Any], header: Header, layout: PixelFormat) -> NDArray[Any]:
    (transform,) = read_modality_transforms(header, layout)
    if layout.is_inverted and transform.table is not None:  # low is what comes out of it
        dtype = transform.table.dtype
        ends = int(transform.table.min()) + int(transform.table.max())
        return (ends - transform.apply(stored, np.dtype(np.int64))).astype(dtype)
    if layout.is_inverted:
        # -1 - v of signed values, and 2 ** bits - 1 - v of unsigned ones: neither can overflow.
        stored = ~stored if layout.is_signed else stored ^ layout.dtype.type(layout.bounds[1])
    return transform.apply(stored, common_type([(layout, transform)]))


def _colour(stored: NDArray[Any], header: Header, layout: PixelFormat) -> NDArray[Any]:
    if layout.photometric == "PALETTE COLOR":
        return _through_palette(stored, header, layout)
    if stored.dtype != np.uint8:
        raise InputError(
            f"{header.path} holds {stored.dtype}{stored.shape}; wanted uint8 (y, x, 3)"
        )
    if header.syntax.codec in ("", "rle") and layout.photometric.startswith("YBR_FULL"):
        from pydicom.pixels.processing import convert_color_space

        return np.asarray(convert_color_space(stored, "YBR_FULL", "RGB"), np.uint8)
    return stored  # GDCM gives RGB


def _through_palette(
    stored: NDArray[Any], header: Header, layout: PixelFormat
) -> NDArray[np.uint8]:
    if not all(tag in header.dataset for tag in PALETTE):
        raise InputError(
            f"{header.path} lacks its palette, or has one in segments, which is not read"
        )
    with refusing(InputError, f"{header.path} has a palette that cannot be used"):
        tables = [
            read_table(header.dataset, tags, header, layout.is_signed)
            for tags in zip(PALETTE[:3], PALETTE[3:], strict=True)
        ]
    colours = np.stack([table.apply(stored, np.dtype(np.uint16)) for table in tables], axis=-1)
    # Some writers say 16 bits and use eight of them, which would be next to black.
    is_deep = any(table.table is not None and table.table.max() > 255 for table in tables)
    return (colours >> 8 if is_deep else colours).astype(np.uint8)
