"""What single images mean by their samples: white, signs, depth, and several views in one file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from runtime.io.pictures.picture import read_picture

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (12, 17), dtype=np.uint16)
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339


def write_tiff(
    path: Path,
    samples: np.ndarray,
    photometric: int,
    sample_format: int,
    order: str = "<",
    compression: int = 1,
) -> None:
    """One strip, as it is or deflated (8), as TIFF 6.0 section 2 lays it out."""
    height, width = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = {
        **{
            256: width,
            257: height,
            BITS: 8 * samples.itemsize,
            259: compression,
            PHOTOMETRIC: photometric,
        },
        **{273: 0, 277: 1, 278: height, 279: len(data), SAMPLE_FORMAT: sample_format},
    }
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path.write_bytes(head + entries + struct.pack("<I", 0) + data)


@pytest.mark.parametrize(
    ("samples", "sample_format"),
    [
        (DEEP, 1),
        (DEEP.astype(np.int16) - 2000, 2),
        (DEEP.astype(np.int32) - 2000, 2),
        (DEEP.astype(np.uint32) << 20, 1),
        (DEEP.astype(np.uint32), 1),
        (DEEP.astype(np.float32) - 0.5, 3),
        (GREY, 1),
    ],
    ids=["uint16", "int16", "int32", "uint32", "small uint32", "float32", "uint8"],
)
def test_samples_of_a_tiff_keep_their_values(
    samples: np.ndarray, sample_format: int, tmp_path: Path
) -> None:
    write_tiff(tmp_path / "a.tif", samples, 1, sample_format)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), samples)


@pytest.mark.parametrize("compression", [1, 8], ids=["plain", "deflated"])
@pytest.mark.parametrize(
    ("samples", "sample_format"),
    [
        (DEEP, 1),
        (DEEP.astype(np.int16) - 2000, 2),
        (DEEP.astype(np.int32) - 2000, 2),
        (DEEP.astype(np.float32) - 0.5, 3),
    ],
    ids=["uint16", "int16", "int32", "float32"],
)
def test_samples_of_a_big_endian_tiff_keep_their_values(
    samples: np.ndarray, sample_format: int, compression: int, tmp_path: Path
) -> None:
    """Pillow swaps what libtiff, which inflates, has swapped already."""
    write_tiff(tmp_path / "a.tif", samples, 1, sample_format, ">", compression)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), samples)


@pytest.mark.parametrize("samples", [GREY, DEEP], ids=["8 bits", "16 bits"])
def test_white_is_zero_is_turned_over(samples: np.ndarray, tmp_path: Path) -> None:
    """Pillow does it to bytes alone."""
    write_tiff(tmp_path / "a.tif", samples, 0, 1)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), np.iinfo(samples.dtype).max - samples)


def test_what_cannot_be_turned_over_is_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", DEEP.astype(np.float32), 0, 3)
    with pytest.raises(InputError, match="low ones are white"):
        read_picture(tmp_path / "a.tif")


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    """Pillow takes them for unsigned ones."""
    write_tiff(tmp_path / "a.tif", GREY.view(np.int8), 1, 2)
    with pytest.raises(InputError, match="bytes with a sign"):
        read_picture(tmp_path / "a.tif")


def test_deep_grey_with_transparency_is_refused(tmp_path: Path) -> None:
    """Pillow keeps its upper eight bits, which 12 bits in 16 do not fill."""
    pixels = np.stack([DEEP, np.full_like(DEEP, 65535)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 17, 12, 16, 4, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match="16 bits of grey and transparency"):
        read_picture(tmp_path / "a.png")


def test_of_a_cameras_views_the_first_is_the_image(tmp_path: Path) -> None:
    """Phones put depth or a preview behind their JPEG."""
    image = Image.fromarray(COLOUR)
    image.save(tmp_path / "plain.jpg", quality=90)
    views = [image.resize((8, 6))]
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views, quality=90)
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.format == "MPO"
    expected = read_picture(tmp_path / "plain.jpg")
    assert np.array_equal(read_picture(tmp_path / "a.jpg"), expected)


def test_what_a_second_channel_of_a_tiff_is_has_to_be_said(tmp_path: Path) -> None:
    """Opacity is left out; of what may be anything the first would be taken for all there is."""
    path, opaque = tmp_path / "a.tif", np.full_like(GREY, 255)
    Image.merge("LA", [*map(Image.fromarray, (GREY, opaque))]).save(path)
    written = path.read_bytes()
    entry = struct.pack("<HHI", 338, 3, 1)  # extra samples: 0 is anything, 1 and 2 are opacity
    assert written.count(entry + b"\x02") == 1
    for meaning in (1, 2):
        path.write_bytes(written.replace(entry + b"\x02", entry + bytes([meaning])))
        assert np.array_equal(read_picture(path), GREY)
    path.write_bytes(written.replace(entry + b"\x02", entry + b"\x00"))
    with pytest.raises(InputError, match="has 2 channels and does not say what they are"):
        read_picture(path)
