"""Reading one PNG, JPEG, BMP or TIFF image, all of it or none."""

from __future__ import annotations

import re
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from runtime.errors import InputError
from runtime.files.plain_file import open_plain
from runtime.io.pictures.jpeg import check_whole

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 1 << 26
"""Of an image, 8192 x 8192: decoding one takes up to 15 bytes a pixel."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_SEVERAL_VIEWS = "MPO"  # a JPEG behind which a camera puts previews, depth or other views of it
_GREY = ("1", "L", "LA", "La")
# TIFF 6.0: compression, and where strips and tiles lie; both numbers of deflate.
_COMPRESSION, _DEFLATE = 259, (8, 32946)
_PARTS = ((273, 279), (324, 325))
# TIFF 6.0: bits of a sample, what they mean; 0 is white; integers with a sign.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
# In Pillow's names of how samples are stored, where N stands for this machine's order.
_BIG_ENDIAN = re.compile(r"(;16|;32)B")
_CHUNK_BYTES = 1 << 16


def read_picture(path: Path) -> NDArray[Any]:
    """An image, upright: grey (y, x) uint8, uint16, int32, uint32 or float32, or uint8 (y, x, 3).

    Whatever name it has, it is read as what it begins as. Checksums that its format has are checked. Of the several
    views that a camera may put into a JPEG, the first is the image, as every viewer shows it.

    Raises InputError for files that are damaged, too large (MAX_PIXELS, or Pillow's own limit) or hold several images.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about tags that do not matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_plain(path) as stream:
                _check_sums(stream, path)
                with Image.open(stream, formats=_FORMATS) as image:
                    return _decode(image, path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is too large an image: {error}; make it smaller") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them raise
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def _decode(image: Image.Image, path: Path) -> NDArray[Any]:
    if getattr(image, "is_animated", False) and image.format != _SEVERAL_VIEWS:
        raise InputError(f"{path} holds several images; wanted one a file")
    if "LA;16" in str(getattr(image, "tile", "")):  # of which Pillow keeps eight bits
        raise InputError(f"{path} has 16 bits of grey and transparency; save it without the latter")
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode == "L" and len(tags.get(_BITS, ())) > 1:  # of which Pillow keeps the first
        raise InputError(
            f"{path} has {len(tags[_BITS])} channels and does not say what they are; save the one that counts"
        )
    if isinstance(image, TiffImageFile):
        image.tile = [*map(_in_own_order, image.tile)]
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image)
        return _meant(deep.astype(deep.dtype.newbyteorder("="), copy=False), tags, path)
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise InputError(f"{path} holds bytes with a sign; save it with 16 bits")
    mode = "L" if image.mode in _GREY else "RGB"
    if (
        image.mode == "La"
    ):  # grey that is multiplied by its opacity, which Pillow turns into nothing else
        image = image.convert("LA")
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _in_own_order(tile: Any) -> Any:
    """A part as libtiff gives it, which has put bytes in order: of most types Pillow 13 would swap them once more."""
    if tile.codec_name != "libtiff":
        return tile
    mode, *rest = tile.args
    return tile._replace(args=(_BIG_ENDIAN.sub(r"\1N", mode), *rest))


def _meant(deep: NDArray[Any], tags: Any, path: Path) -> NDArray[Any]:
    """What a TIFF means by its samples of more than 8 bits, of which Pillow knows neither sign nor white."""
    bits, kinds = tags.get(_BITS, ()), tags.get(_SAMPLE_FORMAT, (1,))
    if bits == (32,) and kinds == (1,) and deep.dtype == np.int32:
        unsigned = deep.view(np.uint32)
        return deep if (deep >= 0).all() else unsigned
    if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return deep
    if bits != (16,) or deep.dtype != np.uint16:
        raise InputError(f"{path} has pixels of which low ones are white; save them the other way")
    return ~deep


def _check_sums(stream: BinaryIO, path: Path) -> None:
    """Raise what Pillow or zlib raises where a checksum is wrong or data is missing; Pillow itself passes over much."""
    with Image.open(stream, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{path} is too large an image: {image.width} x {image.height} pixels (x, y), more than {MAX_PIXELS}; "
                "make it smaller"
            )
        if image.format == "PNG":
            image.verify()
        elif image.format in ("JPEG", _SEVERAL_VIEWS):
            stream.seek(0)
            check_whole(stream.read())
        elif isinstance(image, TiffImageFile) and image.tag_v2.get(_COMPRESSION) in _DEFLATE:
            _check_deflated(stream, image.tag_v2)
    stream.seek(0)


def _check_deflated(stream: BinaryIO, tags: Any) -> None:
    left = 2 * stream.seek(0, 2)
    for offsets, counts in _PARTS:
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=True):
            left -= count
            if left < 0:
                raise ValueError("its parts are larger than the file")
            stream.seek(offset)
            inflater = zlib.decompressobj()
            while count > 0 and not inflater.eof:
                chunk = stream.read(min(count, _CHUNK_BYTES))
                if not chunk:
                    break
                count -= len(chunk)
                inflater.decompress(chunk)
            if not inflater.eof:
                raise ValueError("its compressed data is cut short")
