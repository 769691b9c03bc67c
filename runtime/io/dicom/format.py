"""How the pixels of an image are stored (PS3.3 C.7.6.3), and whether what it says agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError, VolumeError
from runtime.io.dicom.elements import numbers, text, whole
from runtime.io.dicom.header import (
    ALLOCATED,
    COLUMNS,
    FRAMES,
    HIGH_BIT,
    IS_SIGNED,
    PHOTOMETRIC,
    PLANAR,
    ROWS,
    SAMPLES,
    STORED,
    Header,
)

_GREY, _INVERTED = "MONOCHROME2", "MONOCHROME1"
# Photometric interpretation -> samples per pixel.
_SAMPLES = {_GREY: 1, _INVERTED: 1, "PALETTE COLOR": 1} | dict.fromkeys(
    ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"), 3
)
# What a compressed file may be smaller than its pixels by, where they are many: a whole volume of one value is not.
_MOST_BYTES, _MOST_GROWTH = 1 << 26, 1000
# Bytes of zeros that some writers let follow the pixels.
_MOST_PADDING = 4096


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Frames of rows x columns pixels of 1 or 3 samples, each of `stored` bits below and at `high_bit`."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    is_planar: bool

    @property
    def is_grey(self) -> bool:
        """Whether a pixel is one value that says how bright it is."""
        return self.photometric in (_GREY, _INVERTED)

    @property
    def is_inverted(self) -> bool:
        """Whether low values are white."""
        return self.photometric == _INVERTED

    @property
    def samples_stored(self) -> int:
        """Samples in a native frame: of YBR_FULL_422 two pixels share their colours."""
        pixels = self.rows * self.columns
        return 2 * pixels if self.photometric == "YBR_FULL_422" else pixels * self.samples

    @property
    def frame_bytes(self) -> int:
        """Bytes of a native frame; where one bit is allocated frames follow each other without a gap."""
        return -(-self.samples_stored * self.allocated // 8)

    @property
    def total_bytes(self) -> int:
        """Bytes of all frames as they are stored without compression."""
        return -(-self.frames * self.samples_stored * self.allocated // 8)

    @property
    def container(self) -> np.dtype[Any]:
        """The unsigned type of a stored sample, in this machine's order."""
        return np.dtype(f"u{max(1, self.allocated // 8)}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a sample once it is taken out of its bits."""
        return np.dtype(f"i{self.allocated // 8}") if self.is_signed else self.container

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and greatest value that a sample can have."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.is_signed else (0, 2 * half - 1)

    def take_out(self, container: NDArray[Any]) -> NDArray[Any]:
        """Samples from what holds them: other bits, such as overlays, are dropped, signs extended."""
        above = self.allocated - 1 - self.high_bit
        unused = self.allocated - self.stored
        if self.allocated == 1 or not unused:
            return container.view(self.dtype)
        container = np.left_shift(container, above, dtype=container.dtype) if above else container
        taken: NDArray[Any] = np.right_shift(container.view(self.dtype), unused, dtype=self.dtype)
        return taken


def read_format(header: Header) -> PixelFormat:
    """The format of an image's pixels.

    Raises SeriesError where its numbers do not agree with each other, or with the pixel data: that is damaged.
    """
    path, dataset = header.path, header.dataset
    frames = numbers(dataset, FRAMES, path) or (1.0,)
    samples, rows, columns = (whole(dataset, tag, path) for tag in (SAMPLES, ROWS, COLUMNS))
    allocated, stored, high_bit, is_signed = (
        whole(dataset, tag, path) for tag in (ALLOCATED, STORED, HIGH_BIT, IS_SIGNED)
    )
    photometric = text(dataset, PHOTOMETRIC)
    is_planar = samples > 1 and bool(whole(dataset, PLANAR, path))
    wrong = [
        what
        for what, is_right in (
            (f"{frames} frames", len(frames) == 1 and frames[0] >= 1 and frames[0].is_integer()),
            (f"{rows} rows of {columns}", rows > 0 and columns > 0),
            (f"{samples} samples of {photometric!r}", _SAMPLES.get(photometric) == samples),
            (f"{allocated} bits allocated", allocated in (1, 8, 16, 32)),
            (f"{stored} of {allocated} bits stored", 0 < stored <= allocated),
            (f"high bit {high_bit} of {stored}", high_bit == stored - 1),
            (
                f"pixel representation {is_signed}",
                is_signed in (0, 1) and (allocated, is_signed) != (1, 1),
            ),
        )
        if not is_right
    ]
    if wrong:
        raise SeriesError(
            f"{path}: found {', '.join(wrong)}, which cannot be; it is damaged, or of a kind not read"
        )
    layout = PixelFormat(
        *(int(frames[0]), rows, columns, samples, allocated, stored, high_bit),
        *(bool(is_signed), photometric, is_planar),
    )
    _check_length(header, layout)
    return layout


def check_grey(header: Header, layout: PixelFormat) -> None:
    """Raise VolumeError unless pixels are one value each, of which low ones are black."""
    if not layout.is_grey:
        raise VolumeError(f"{header.path}: found colour pixels; wanted one value per pixel")
    if layout.is_inverted:
        raise VolumeError(
            f"{header.path}: found pixels of which low ones are white (MONOCHROME1); wanted MONOCHROME2; "
            "convert the series first"
        )


def _check_length(header: Header, layout: PixelFormat) -> None:
    wanted, size = layout.total_bytes, header.pixel_bytes
    if header.syntax.codec:
        if size is not None:
            raise SeriesError(
                f"{header.path} is {header.syntax.name}, but its pixels are not encapsulated"
            )
        size = header.path.stat().st_size
        is_bomb = wanted > max(_MOST_BYTES, _MOST_GROWTH * size)
    elif size is None:
        raise SeriesError(f"{header.path} is {header.syntax.name}, but its pixels are encapsulated")
    else:
        if size < wanted or (size > wanted + 1 and not _is_padding(header, wanted, size)):
            raise SeriesError(
                f"{header.path}: found {size} bytes of pixels; wanted {wanted}, of {layout.frames} frames of "
                f"{layout.rows} rows of {layout.columns}; it is cut short or damaged; copy it again"
            )
        is_bomb = header.syntax.is_deflated and wanted > max(
            _MOST_BYTES, _MOST_GROWTH * header.path.stat().st_size
        )
    if is_bomb:
        raise SeriesError(
            f"{header.path} says that its {header.path.stat().st_size} bytes hold {wanted} bytes of pixels, which is "
            "more than any scan shrinks by; it is damaged"
        )


def _is_padding(header: Header, wanted: int, size: int) -> bool:
    """Whether what follows the pixels is a little of nothing; where their numbers are wrong, pixels are left over."""
    if size - wanted > _MOST_PADDING or header.syntax.is_deflated:
        return False
    with header.pixel_stream(size) as stream:
        stream.seek(wanted, 1)
        return not stream.read(size - wanted).strip(b"\0")
