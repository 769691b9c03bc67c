"""A picture of a result: contours on the prompted slice and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from runtime.errors import Sam2Error
from runtime.prompts import Box, Mask, Point, Prompt
from runtime.result import Result

PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg")
TILE = 360  # pixels, the longer side of one slice's picture
COLUMNS = 4
TILES = 8
MARGIN = 6
INK, PAPER, NOTE = (255, 255, 255), (18, 18, 20), (190, 190, 195)
COLOURS = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 92, 138),
    (126, 217, 87),
    (190, 140, 255),
    (255, 140, 60),
)
PROMPT_COLOUR = (255, 255, 255)
FILL = 0.18  # opacity of a mask's inside


def draw_preview(
    pixels: NDArray[np.uint8],
    result: Result,
    prompts: Mapping[int, Sequence[Prompt]],
    spacing_yx_mm: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> Image.Image:
    """A sheet of slices with every object's contour, cropped around the objects.

    Args:
        pixels: windowed volume, uint8 (z, y, x).
        result: what was found.
        prompts: object id to its prompts, drawn where they were given.
        spacing_yx_mm: pixel size, so that shapes are true.
        title: a line above the slices.
    """
    labels = {object_id: result.mask(object_id) for object_id in result.object_ids}
    given = [p for each in prompts.values() for p in each]
    prompted = [p.slice for p in given]
    segmented = sorted({index for masks in result.slices.values() for index in masks})
    indices = choose_slices(labels, prompted or [result.shape[0] // 2], segmented)
    rows, columns = _crop(labels, given, pixels.shape[1:])
    scale_y, scale_x = _scale(rows, columns, spacing_yx_mm)
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    tiles = []
    for index in indices:
        view = pixels[index, rows, columns]
        size = (max(1, round(view.shape[1] * scale_x)), max(1, round(view.shape[0] * scale_y)))
        tile = Image.fromarray(view).resize(size, Image.Resampling.BICUBIC).convert("RGB")
        for i, (object_id, mask) in enumerate(labels.items()):
            colour = COLOURS[i % len(COLOURS)]
            tile = _outline(tile, mask[index, rows, columns], colour)
            _draw_prompts(
                tile, prompts.get(object_id, ()), index, rows, columns, (scale_y, scale_x)
            )
        scores = [result.slices[o][index].confidence for o in labels if index in result.slices[o]]
        _caption(tile, f"z = {index}", scores, index in prompted, font, small)
        tiles.append(tile)
    return _sheet(tiles, title, list(labels), font)


def draw_gallery(
    images: Sequence[NDArray[np.uint8]],
    result: Result,
    prompts: Mapping[int, Sequence[Prompt]],
    names: Sequence[str],
    title: str = "",
) -> Image.Image:
    """A sheet of whole images, of any sizes, with every object's contour.

    Args:
        images: uint8 (y, x) or (y, x, 3); of many, prompted ones and an even choice of the others are drawn.
        result: what was found, image by image.
        prompts: object id to its prompts.
        names: of the images.
        title: a line above them.
    """
    prompted = sorted({p.slice for each in prompts.values() for p in each})
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    tiles = []
    for index in _some(len(images), prompted):
        image = images[index]
        per_pixel = TILE / max(image.shape[:2])
        size = (
            max(1, round(image.shape[1] * per_pixel)),
            max(1, round(image.shape[0] * per_pixel)),
        )
        tile = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).convert("RGB")
        masks = {o: result.slices[o][index] for o in result.object_ids if index in result.slices[o]}
        for i, (object_id, found) in enumerate(masks.items()):
            tile = _outline(tile, found.mask(), COLOURS[i % len(COLOURS)])
            all_of_it = slice(0, image.shape[0]), slice(0, image.shape[1])
            given = prompts.get(object_id, ())
            _draw_prompts(tile, given, index, *all_of_it, (per_pixel, per_pixel))
        scores = [found.confidence for found in masks.values()]
        _caption(tile, names[index], scores, index in prompted, font, small)
        square = Image.new("RGB", (TILE, TILE), PAPER)
        square.paste(tile, ((TILE - tile.width) // 2, (TILE - tile.height) // 2))
        tiles.append(square)
    return _sheet(tiles, title, list(result.object_ids), font)


def _some(count: int, prompted: Sequence[int]) -> list[int]:
    """Up to `TILES` of so many images: prompted ones, and others spread evenly."""
    wanted = list(prompted)[:TILES]
    others = [i for i in range(count) if i not in wanted]
    spread = np.linspace(0, len(others) - 1, min(TILES - len(wanted), len(others))).round()
    return sorted({*wanted, *(others[int(i)] for i in spread)})


def write_preview(path: str | Path, picture: Image.Image) -> None:
    """Write a picture whole or not at all; the suffix chooses the format. Raises Sam2Error."""
    file = Path(path)
    part = file.with_name(f".{file.name}.part")
    try:
        picture.save(part, format=Image.registered_extensions()[file.suffix.lower()])
        part.replace(file)
    except OSError as error:
        raise Sam2Error(f"{file} could not be written: {error}; is the disk full?") from error
    finally:
        part.unlink(missing_ok=True)


def choose_slices(
    masks: Mapping[int, NDArray[np.bool_]], prompted: Sequence[int], segmented: Sequence[int]
) -> list[int]:
    """Up to `TILES` of the segmented slices: prompted ones, and others spread evenly over where the objects are."""
    held = [np.flatnonzero(mask.any((1, 2))) for mask in masks.values()]
    present = np.unique(np.concatenate([np.array(prompted), *held]))
    low, high = max(present.min() - 1, segmented[0]), min(present.max() + 1, segmented[-1])
    wanted = list(dict.fromkeys(prompted))[:TILES]
    spread = np.linspace(low, high, min(TILES, high - low + 1)).round().astype(int)
    near = sorted(set(spread.tolist()) - set(wanted), key=lambda i: min(abs(i - p) for p in wanted))
    return sorted({*wanted, *near[: TILES - len(wanted)]})


def _crop(
    masks: Mapping[int, NDArray[np.bool_]], given: Sequence[Prompt], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """A square around everything of interest, with room to see what surrounds it."""
    area = np.zeros(shape, bool)
    for mask in masks.values():
        area |= mask.any(0)
    for prompt in given:
        if isinstance(prompt, Box):
            area[int(prompt.y[0]) : int(prompt.y[1]), int(prompt.x[0]) : int(prompt.x[1])] = True
        elif isinstance(prompt, Point):
            area[int(prompt.y), int(prompt.x)] = True
    spans = [np.flatnonzero(area.any(axis)) for axis in (1, 0)]
    if not len(spans[0]):
        return slice(0, shape[0]), slice(0, shape[1])
    side = max(int(1.8 * max(np.ptp(span) for span in spans)), 64)
    cuts = []
    for span, size in zip(spans, shape, strict=True):
        middle, length = int(span.min() + span.max()) // 2, min(side, size)
        start = min(max(middle - length // 2, 0), size - length)
        cuts.append(slice(start, start + length))
    return cuts[0], cuts[1]


def _scale(rows: slice, columns: slice, spacing_yx_mm: tuple[float, float]) -> tuple[float, float]:
    """Picture pixels per voxel in y and x, so that the longer side measures `TILE`."""
    height_mm = (rows.stop - rows.start) * spacing_yx_mm[0]
    width_mm = (columns.stop - columns.start) * spacing_yx_mm[1]
    per_mm = TILE / max(height_mm, width_mm)
    return per_mm * spacing_yx_mm[0], per_mm * spacing_yx_mm[1]


def _outline(
    tile: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> Image.Image:
    """The tile with a mask's inside tinted and its border drawn, smooth at the tile's resolution."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(tile.size, Image.Resampling.BILINEAR)
    inside = np.asarray(soft) >= 128
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


def _draw_prompts(
    tile: Image.Image,
    prompts: Sequence[Prompt],
    index: int,
    rows: slice,
    columns: slice,
    scale: tuple[float, float],
) -> None:
    draw = ImageDraw.Draw(tile)
    for prompt in prompts:
        if prompt.slice != index or isinstance(prompt, Mask):
            continue
        if isinstance(prompt, Box):
            y0, y1 = ((v - rows.start) * scale[0] for v in prompt.y)
            x0, x1 = ((v - columns.start) * scale[1] for v in prompt.x)
            corner = (max(x0, x1 - 1), max(y0, y1 - 1))  # a voxel may be less than a pixel
            draw.rectangle((x0, y0, *corner), outline=PROMPT_COLOUR, width=1)
        else:
            y = (prompt.y + 0.5 - rows.start) * scale[0]
            x = (prompt.x + 0.5 - columns.start) * scale[1]
            arms = ((x - 6, y, x + 6, y), (x, y - 6, x, y + 6))
            for line in arms if prompt.positive else arms[:1]:
                draw.line(line, fill=PROMPT_COLOUR, width=2)


def _caption(
    tile: Image.Image,
    name: str,
    scores: Sequence[float],
    is_prompted: bool,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    small: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    draw = ImageDraw.Draw(tile)
    draw.text((8, 6), name, fill=INK, font=font, stroke_width=2, stroke_fill=PAPER)
    words = ["prompted"] if is_prompted else []
    if scores:
        words.append("confidence " + " ".join(f"{score:.2f}" for score in scores[:4]))
    at = (8, tile.height - 22)
    draw.text(at, ", ".join(words), fill=INK, font=small, stroke_width=2, stroke_fill=PAPER)
    if is_prompted:
        draw.rectangle((0, 0, tile.width - 1, tile.height - 1), outline=INK, width=2)


def _sheet(
    tiles: Sequence[Image.Image],
    title: str,
    object_ids: Sequence[int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    head = 34
    sheet = Image.new(
        "RGB",
        (columns * (width + MARGIN) + MARGIN, head + rows * (height + MARGIN)),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    x = 8.0
    for i, object_id in enumerate(object_ids):
        draw.rectangle((x, 11, x + 12, 23), fill=COLOURS[i % len(COLOURS)])
        draw.text((x + 18, 8), f"{object_id}", fill=INK, font=font)
        x += 34 + draw.textlength(f"{object_id}", font=font)
    draw.text((x + 6, 8), title, fill=NOTE, font=font)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (MARGIN + column * (width + MARGIN), head + row * (height + MARGIN)))
    return sheet
