"""One slice's picture: the slice as it is to be seen, and what is drawn on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from runtime.preview.view import Edges, View
from runtime.prompts.prompts import Box, Mask, Prompt

Colour = tuple[int, int, int]
T = TypeVar("T", bound=np.generic)

TILE = 360  # pixels, the longer side of one slice's picture
INK, PAPER, NOTE = (255, 255, 255), (18, 18, 20), (190, 190, 195)
COLOURS: tuple[Colour, ...] = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 92, 138),
    (126, 217, 87),
    (190, 140, 255),
    (255, 140, 60),
)
LETTER = (255, 214, 102)  # of the letters at the edges: told from figures at a glance
PROMPT_COLOUR = (255, 255, 255)
FILL = 0.18  # opacity of a mask's inside
FONT, SMALL, LARGE = (
    ImageFont.load_default(size=15),
    ImageFont.load_default(size=13),
    ImageFont.load_default(size=17),
)
GAP = 6  # pixels between what is written and the border
SECOND = 27  # pixels down to the second line of a caption
LOW = 200  # pixels: in a lower picture everything is written in one line
BAR = 0.3  # of a picture's width, which a scale bar takes at the most
ROOM = 120  # pixels: on a picture with a shorter side nothing but contours is drawn


@dataclass(frozen=True, slots=True)
class Frame:
    """Which part of a slice is shown, and how.

    Attributes:
        shape: (y, x) of the slice.
        view: which way up.
        rows, columns: what is shown of the slice as it is to be seen.
        scale: pixels of the picture for each of these rows and columns.
    """

    shape: tuple[int, int]
    view: View
    rows: slice
    columns: slice
    scale: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture in pixels."""
        height = (self.rows.stop - self.rows.start) * self.scale[0]
        width = (self.columns.stop - self.columns.start) * self.scale[1]
        return max(1, round(width)), max(1, round(height))

    def cut(self, plane: NDArray[T]) -> NDArray[T]:
        """What is shown of a slice (y, x) or (y, x, 3)."""
        return np.ascontiguousarray(self.view.show(plane)[self.rows, self.columns])

    def place(self, y: float, x: float) -> tuple[float, float]:
        """Picture coordinates (x, y) in pixels of a place on the slice."""
        row, column = self.view.place(y, x, self.shape)
        return (
            (column - self.columns.start) * self.scale[1],
            (row - self.rows.start) * self.scale[0],
        )


def draw_slice(plane: NDArray[np.uint8], frame: Frame) -> Image.Image:
    """A slice (y, x), or (y, x, 3) in colour."""
    cut = Image.fromarray(frame.cut(plane))
    return cut.resize(frame.size, Image.Resampling.BICUBIC).convert("RGB")


def draw_outline(
    tile: Image.Image, mask: NDArray[np.bool_], frame: Frame, colour: Colour
) -> Image.Image:
    """The tile with a mask's (y, x) inside tinted and its border drawn, smooth at the tile's resolution."""
    cut = Image.fromarray(frame.cut(mask).astype(np.uint8) * 255)
    inside = np.asarray(cut.resize(tile.size, Image.Resampling.BILINEAR)) >= 128
    if not inside.any():
        return tile
    around = np.pad(inside, 2)
    height, width = inside.shape
    core = inside.copy()
    for dy, dx in ((0, 2), (2, 0), (4, 2), (2, 4)):
        core &= around[dy : dy + height, dx : dx + width]
    out = np.asarray(tile).astype(np.float32)
    out[inside] = (1 - FILL) * out[inside] + FILL * np.array(colour)
    out[inside & ~core] = colour
    return Image.fromarray(out.astype(np.uint8))


def draw_prompts(tile: Image.Image, prompts: Sequence[Prompt], index: int, frame: Frame) -> None:
    """Boxes and points of a slice."""
    draw = ImageDraw.Draw(tile)
    for prompt in prompts:
        if prompt.slice != index or isinstance(prompt, Mask):
            continue
        if isinstance(prompt, Box):
            corners = [frame.place(y, x) for y, x in zip(prompt.y, prompt.x, strict=True)]
            (x0, x1), (y0, y1) = (sorted(side) for side in zip(*corners, strict=True))
            corner = (max(x0, x1 - 1), max(y0, y1 - 1))  # a voxel may be less than a pixel
            draw.rectangle((x0, y0, *corner), outline=PROMPT_COLOUR, width=1)
        else:
            x, y = frame.place(prompt.y + 0.5, prompt.x + 0.5)
            arms = ((x - 6, y, x + 6, y), (x, y - 6, x, y + 6))
            for line in arms if prompt.positive else arms[:1]:
                draw.line(line, fill=PROMPT_COLOUR, width=2)


def draw_caption(
    tile: Image.Image, name: str, scores: Sequence[tuple[float, Colour]], is_prompted: bool
) -> None:
    """The name of a slice, whether it was prompted, and the confidence of each object in its colour."""
    end = write(tile, (8, GAP), name)
    x, y = (8.0, SECOND) if tile.height > LOW else (end + 12, GAP + 2.0)
    if is_prompted:
        x = write(tile, (x, y), "prompted, " if scores else "prompted", small=True)
        frame = (0, 0, tile.width - 1, tile.height - 1)
        ImageDraw.Draw(tile).rectangle(frame, outline=INK, width=2)
    if scores:
        x = write(tile, (x, y), "confidence ", small=True)
    for score, colour in scores[:4]:
        shown = colour if len(scores) > 1 else INK
        x = write(tile, (x, y), f"{score:.2f} ", shown, small=True)


def draw_edges(tile: Image.Image, edges: Edges) -> None:
    """Letters at the middle of each edge."""
    if min(tile.size) < ROOM:
        return
    draw = ImageDraw.Draw(tile)
    middle_x, middle_y = tile.width / 2, tile.height / 2
    for letters, at, anchor in (
        (edges.left, (GAP, middle_y), "lm"),
        (edges.right, (tile.width - GAP, middle_y), "rm"),
        (edges.top, (middle_x, GAP), "ma"),
        (edges.bottom, (middle_x, tile.height - GAP), "md"),
    ):
        draw.text(at, letters, LETTER, LARGE, anchor=anchor, stroke_width=2, stroke_fill=PAPER)


def draw_scale(tile: Image.Image, pixels_per_mm: float) -> None:
    """A bar of a round length, at the lower right."""
    if min(tile.size) < ROOM:
        return
    length_mm = round_length(BAR * tile.width / pixels_per_mm)
    right, y = tile.width - 9, tile.height - 10
    left = right - length_mm * pixels_per_mm
    draw = ImageDraw.Draw(tile)
    for grown, colour in ((1, PAPER), (0, INK)):
        draw.rectangle((left - grown, y - 1 - grown, right + grown, y + grown), fill=colour)
        for x in (left, right):
            draw.rectangle((x - grown, y - 4 - grown, x + grown, y + 3 + grown), fill=colour)
    words = f"{length_mm / 10:g} cm" if length_mm >= 10 else f"{length_mm:g} mm"
    draw.text((right, y - 6), words, INK, SMALL, anchor="rd", stroke_width=2, stroke_fill=PAPER)


def round_length(most_mm: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above `most_mm`."""
    power = 10.0 ** math.floor(math.log10(most_mm))
    return max((step * power for step in (1, 2, 5) if step * power <= most_mm), default=power)


def write(
    tile: Image.Image,
    at: tuple[float, float],
    words: str,
    colour: Colour = INK,
    small: bool = False,
) -> float:
    """Words that can be read on anything; returns where they end."""
    font = SMALL if small else FONT
    draw = ImageDraw.Draw(tile)
    words = printable(words)
    draw.text(at, words, fill=colour, font=font, stroke_width=2, stroke_fill=PAPER)
    return at[0] + draw.textlength(words, font=font)


def shortened(words: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room: float) -> str:
    """Words in one line, cut with an ellipsis to take no more than `room` pixels."""
    words = printable(words)
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(words + "…") > room:
        words = words[:-1]
    return words + "…" if words else ""


def printable(words: str) -> str:
    """Words without what cannot be drawn in a line, such as bytes and line ends in names of files."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)
