"""JPEG files that were cut short and given an end again: decoders draw grey where data is missing."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from runtime.io.pictures.picture import read_picture

RNG = np.random.default_rng(3)
Y, X = np.mgrid[:203, :170]
WAVES = 127 + 100 * np.sin(X / 9) * np.cos(Y / 14)
COLOUR = np.clip(np.stack([WAVES, Y * 1.2, X * 1.1], -1) + RNG.normal(0, 6, (203, 170, 3)), 0, 255)
FLAT = np.full((64, 64, 3), 128)  # the grey that decoders fill with
FLAT[:30, :50] = 200
KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "colour": (COLOUR, {"quality": 90}),
    "unsampled colour": (COLOUR, {"quality": 100, "subsampling": 0}),
    "grey": (COLOUR[..., 0], {"quality": 75}),
    "progressive": (COLOUR, {"progressive": True}),
    "with restarts": (COLOUR, {"restart_marker_blocks": 4}),
    "grey of decoders": (FLAT, {"quality": 80}),
    "a pixel": (COLOUR[:1, :1], {}),
}
LAST_BLOCK = 40  # bytes, of whose textures nothing is seen in small


def encoded(array: np.ndarray, options: dict[str, Any]) -> bytes:
    stream = BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(stream, "JPEG", **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("array", "options"), KINDS.values(), ids=KINDS)
def test_what_is_whole_is_read_and_what_was_cut_is_not(
    array: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    """At every place where a byte less is a picture less, also between two restarts."""
    whole = encoded(array, options)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole + b"whatever follows \xff\xd9")
    assert np.array_equal(read_picture(path), pixels(whole))

    begin = whole.rindex(b"\xff\xda") + 2
    begin += int.from_bytes(whole[begin : begin + 2], "big")
    ends = {*range(begin, len(whole) - LAST_BLOCK, max(1, (len(whole) - begin) // 40))}
    ends |= {m.start() for m in [*re.finditer(rb"\xff[\xd0-\xd7]", whole)][:9]}
    num_cut = 0
    for end in sorted(ends):
        cut = whole[:end] + b"\xff\xd9"
        if whole[end - 1] == 0xFF or np.array_equal(pixels(cut), pixels(whole)):
            continue
        num_cut += 1
        path.write_bytes(cut)
        with pytest.raises(InputError, match="data ends before its picture does"):
            read_picture(path)
        path.write_bytes(cut[:-2].ljust(2 * len(whole), b"\0"))  # as a download that broke off
        with pytest.raises(InputError, match="cannot be read as an image"):
            read_picture(path)
    assert num_cut > 5 or array.size < 4


def test_other_pictures_in_a_file_do_not_make_the_first_one_whole(tmp_path: Path) -> None:
    """A preview in its header, and views behind it."""
    image = Image.fromarray(COLOUR.astype(np.uint8))
    preview = encoded(COLOUR[::4, ::4], {})
    exif = b"Exif\0\0" + preview
    views = [Image.fromarray(COLOUR[::2].astype(np.uint8))]
    path = tmp_path / "a.jpg"
    image.save(path, "MPO", save_all=True, append_images=views, exif=exif)
    data = path.read_bytes()
    read_picture(path)
    second = data.rindex(b"\xff\xd8\xff")
    path.write_bytes(data[: second - 2000] + b"\xff\xd9" + data[second:])
    with pytest.raises(InputError, match="data ends before its picture does"):
        read_picture(path)
