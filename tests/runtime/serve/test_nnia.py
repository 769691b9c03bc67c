"""Packed arrays: what nnInteractive's client packs is read and the other way round; what lies is refused unread."""

from __future__ import annotations

import random
import struct
import tracemalloc

import blosc2
import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array, unpack_array

from runtime.errors import InputError
from runtime.serve import nnia

MOST = 2**20
IMAGE = (np.arange(3 * 20 * 30) % 251).astype(np.int16).reshape(1, 3, 20, 30)


@pytest.mark.parametrize("dtype", list(nnia.DTYPES))
@pytest.mark.parametrize("codec", [blosc2.Codec.ZSTD, blosc2.Codec.LZ4])
def test_what_the_client_packs_is_read(dtype: str, codec: blosc2.Codec) -> None:
    for values in (IMAGE % 120, np.zeros_like(IMAGE), np.ones_like(IMAGE), IMAGE[:, :1, :1, :1]):
        array = values.astype(dtype)
        read = nnia.unpack(pack_array(array, codec=codec), MOST, 4)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(unpack_array(nnia.pack(array)), array)


def test_arrays_of_several_chunks_are_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnInteractive.inference.remote.serialization._CHUNK_SIZE", 1000)
    monkeypatch.setattr(nnia, "CHUNK_BYTES", 1000)
    np.testing.assert_array_equal(nnia.unpack(pack_array(IMAGE), MOST, 4), IMAGE)
    assert nnia.read_head(nnia.pack(IMAGE), MOST, 4).num_chunks == 4
    np.testing.assert_array_equal(unpack_array(nnia.pack(IMAGE)), IMAGE)


def test_a_part_of_an_array_is_packed_as_it_looks() -> None:
    part = IMAGE[0, 1:, 3:9, ::2]
    np.testing.assert_array_equal(unpack_array(nnia.pack(part)), part)


def test_bools_are_zero_or_one_whatever_the_bytes() -> None:
    packed = bytearray(pack_array(np.array([[[0, 1, 2, 255]]], np.uint8)))
    packed = packed[:7] + b"\x04bool" + packed[7 + 1 + len("uint8") :]
    read = nnia.unpack(packed, MOST, 3)
    assert read.view(np.uint8).tolist() == [[[0, 1, 1, 1]]]


def head(
    shape: tuple[int, ...] = (1, 3, 20, 30),
    dtype: bytes = b"int16",
    magic: bytes = b"NNIA",
    version: int = 1,
    codec: int = 1,
    chunks: int = 1,
) -> bytes:
    fixed = struct.pack("<4sBBBB", magic, version, codec, len(shape), len(dtype))
    return fixed + dtype + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<I", chunks)


def chunk(size: int, frame: bytes, packed: int | None = None) -> bytes:
    return struct.pack("<QQ", size, len(frame) if packed is None else packed) + frame


ZEROS = blosc2.compress2(bytes(3600), typesize=2)
FRAME = blosc2.compress2(IMAGE.tobytes(), typesize=2, codec=blosc2.Codec.ZSTD)
SPECIAL, FLAGS, FILTER, CODEC = 31, 2, 16, 22


def frame_with(at: int, value: int, frame: bytes = FRAME) -> bytes:
    changed = bytearray(frame)
    changed[at] = value
    return bytes(changed)


def frame_of(size: int) -> bytes:
    """A frame of 32 bytes that says that it holds so many zeros."""
    return ZEROS[:4] + struct.pack("<i", size) + ZEROS[8:]


LIES = {
    "nothing": b"",
    "too short": head()[:20],
    "another magic": head(magic=b"NNIB") + chunk(3600, FRAME),
    "another version": head(version=2) + chunk(3600, FRAME),
    "another codec": head(codec=3) + chunk(3600, FRAME),
    "objects": head(dtype=b"object") + chunk(3600, FRAME),
    "strings": head(dtype=b"S8") + chunk(3600, FRAME),
    "complex numbers": head(dtype=b"complex64") + chunk(3600, FRAME),
    "long floats": head(dtype=b"float128") + chunk(3600, FRAME),
    "no ascii": head(dtype=b"\xff\xfe") + chunk(3600, FRAME),
    "three dimensions": head((3, 20, 30)) + chunk(3600, FRAME),
    "255 dimensions": struct.pack("<4sBBBB", b"NNIA", 1, 1, 255, 5) + b"int16" + bytes(2000),
    "a side of none": head((1, 0, 20, 30)) + chunk(3600, FRAME),
    "a negative side": head((1, -3, -20, 30)) + chunk(3600, FRAME),
    "a product beyond 64 bits": head((2**62, 2**62, 2**62, 2**62)) + chunk(3600, FRAME),
    "16 GiB in a frame of zeros": head((1, 2**11, 2**11, 2**11))
    + chunk(2**34, frame_of(2**31 - 1)),
    "a bomb of chunks": head((1, 1, 2**9, 2**9), chunks=2**9) + 100 * chunk(2**30, frame_of(2**30)),
    "no chunk": head(chunks=0),
    "more chunks than bytes": head(chunks=2**32 - 1) + chunk(3600, FRAME),
    "a chunk too many": head(chunks=2) + chunk(3600, FRAME),
    "a chunk too few": head((1, 3, 20, 60)) + chunk(3600, FRAME),
    "a chunk of nothing": head() + chunk(0, b""),
    "a chunk longer than the body": head() + chunk(3600, FRAME, 2**40),
    "a chunk shorter than its frame": head() + chunk(3600, FRAME, 40),
    "half a voxel": head(chunks=2) + chunk(1801, FRAME) + chunk(1799, FRAME),
    "bytes behind the end": head() + chunk(3600, FRAME) + b"x",
    "another length in the frame": head((1, 3, 20, 60)) + chunk(7200, FRAME),
    "a frame of the old form": head() + chunk(3600, frame_with(FLAGS, FRAME[FLAGS] & ~5)),
    "a codec of somebody's own": head() + chunk(3600, frame_with(FLAGS, FRAME[FLAGS] | 0xC0)),
    "a number of somebody's codec": head() + chunk(3600, frame_with(CODEC, 200)),
    "a filter that needs code": head() + chunk(3600, frame_with(FILTER, 34)),
    "memory as it was": head() + chunk(3600, frame_with(SPECIAL, 0x40, ZEROS)),
    "a frame in a file": head() + chunk(3600, frame_with(SPECIAL, 0x08)),
    "damaged voxels": head() + chunk(3600, FRAME[:60] + bytes(len(FRAME) - 60)),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_lies_about_itself_is_refused_without_taking_memory(lie: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            nnia.unpack(LIES[lie], MOST, 4)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


def test_more_voxels_than_allowed_are_too_large() -> None:
    packed = pack_array(np.zeros((1, 8, 256, 256), np.uint8))
    assert len(packed) < 2000
    with pytest.raises(nnia.TooLarge):
        nnia.unpack(packed, 8 * 256 * 256 - 1, 4)
    assert nnia.unpack(packed, 8 * 256 * 256, 4).shape == (1, 8, 256, 256)


def test_mutated_arrays_are_read_or_refused() -> None:
    generator = random.Random(5)
    good = [
        pack_array(IMAGE.astype(dtype), codec=codec)
        for dtype in ("int16", "uint8", "float32")
        for codec in (blosc2.Codec.ZSTD, blosc2.Codec.LZ4)
    ]
    num_refused = 0
    for _ in range(3000):
        content = bytearray(generator.choice(good))
        reach = generator.choice([100, len(content)])
        for _ in range(generator.randint(1, 4)):
            content[generator.randrange(min(reach, len(content)))] = generator.choice(
                [0, 255, generator.randrange(256)]
            )
        try:
            nnia.unpack(content, MOST, 4)
        except InputError:
            num_refused += 1
    assert num_refused > 1000
