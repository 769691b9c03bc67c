"""A picture of a result: contours on the prompted slice and its neighbours, the way up that radiologists look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from runtime.files.atomic import write_whole
from runtime.predictors.result import Result
from runtime.preview.tile import (
    COLOURS,
    FONT,
    INK,
    NOTE,
    PAPER,
    TILE,
    Frame,
    draw_caption,
    draw_edges,
    draw_outline,
    draw_prompts,
    draw_scale,
    draw_slice,
    shortened,
)
from runtime.preview.view import AS_STORED, View
from runtime.prompts.prompts import Box, Point, Prompt

PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg")
COLUMNS = 4
TILES = 8
MARGIN = 6
SEPARATOR = "  ·  "  # of the parts of a title
HEAD = 34  # pixels of the line above the slices


def draw_preview(
    pixels: NDArray[np.uint8],
    result: Result,
    prompts: Mapping[int, Sequence[Prompt]],
    spacing_yx_mm: tuple[float, float] | None = None,
    title: str = "",
    view: View = AS_STORED,
    count: int = TILES,
) -> Image.Image:
    """A sheet of slices with every object's contour, cropped around the objects.

    Args:
        pixels: windowed volume, uint8 (z, y, x).
        result: what was found.
        prompts: object id to its prompts, drawn where they were given.
        spacing_yx_mm: pixel size, so that shapes are true and a bar shows the scale; None where nobody knows.
        title: a line above the slices.
        view: which way up (`runtime.preview.view`); letters at the edges say so where it is known.
        count: of slices at the most.
    """
    labels = {object_id: result.mask(object_id) for object_id in result.object_ids}
    all_prompts = [p for own in prompts.values() for p in own]
    prompted = [p.slice for p in all_prompts]
    segmented = sorted({index for masks in result.slices.values() for index in masks})
    indices = choose_slices(labels, prompted or [result.shape[0] // 2], segmented, count)
    rows, columns = _crop(labels, all_prompts, result.shape[1:], view)
    spacing_mm = view.in_order(spacing_yx_mm or (1.0, 1.0))
    scale = _scale(rows, columns, spacing_mm)
    frame = Frame(result.shape[1:], view, rows, columns, scale)
    tiles = []
    for index in indices:
        tile = draw_slice(pixels[index], frame)
        scores = []
        for (object_id, mask), colour in zip(labels.items(), _colours(labels), strict=True):
            tile = draw_outline(tile, mask[index], frame, colour)
            draw_prompts(tile, prompts.get(object_id, ()), index, frame)
            if slice_mask := result.slices[object_id].get(index):
                scores.append((slice_mask.confidence, colour))
        draw_caption(tile, f"z = {index}", scores, index in prompted)
        if view.edges:
            draw_edges(tile, view.edges)
        if spacing_yx_mm:
            draw_scale(tile, scale[1] / spacing_mm[1])
        tiles.append(tile)
    return _sheet(tiles, SEPARATOR.join(part for part in (title, view.plane) if part), list(labels))


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
    prompted = sorted({p.slice for own in prompts.values() for p in own})
    tiles = []
    for index in _some(len(images), prompted):
        image = images[index]
        per_pixel = TILE / max(image.shape[:2])
        whole = slice(0, image.shape[0]), slice(0, image.shape[1])
        frame = Frame(image.shape[:2], AS_STORED, *whole, (per_pixel, per_pixel))
        tile, scores = draw_slice(image, frame), []
        for object_id, colour in zip(result.object_ids, _colours(result.object_ids), strict=True):
            if (slice_mask := result.slices[object_id].get(index)) is None:
                continue
            tile = draw_outline(tile, slice_mask.mask(), frame, colour)
            draw_prompts(tile, prompts.get(object_id, ()), index, frame)
            scores.append((slice_mask.confidence, colour))
        draw_caption(
            tile, shortened(names[index], FONT, tile.width - 16), scores, index in prompted
        )
        square = Image.new("RGB", (TILE, TILE), PAPER)
        square.paste(tile, ((TILE - tile.width) // 2, (TILE - tile.height) // 2))
        tiles.append(square)
    return _sheet(tiles, title, list(result.object_ids))


def _colours(object_ids: Sequence[int] | Mapping[int, object]) -> list[tuple[int, int, int]]:
    """A colour for each object, so that one that is missing somewhere does not change those of the others."""
    return [COLOURS[i % len(COLOURS)] for i in range(len(object_ids))]


def _some(count: int, prompted: Sequence[int]) -> list[int]:
    """Up to `TILES` of so many images: prompted ones, and others spread evenly."""
    wanted = list(prompted)[:TILES]
    others = [i for i in range(count) if i not in wanted]
    spread = np.linspace(0, len(others) - 1, min(TILES - len(wanted), len(others))).round()
    return sorted({*wanted, *(others[int(i)] for i in spread)})


def write_preview(path: str | Path, picture: Image.Image) -> None:
    """Write a picture whole or not at all; the suffix chooses the format. Raises Sam2Error."""
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    write_whole(path, lambda part: picture.save(part, format=kind))


def choose_slices(
    masks: Mapping[int, NDArray[np.bool_]],
    prompted: Sequence[int],
    segmented: Sequence[int],
    count: int = TILES,
) -> list[int]:
    """Up to `count` of the segmented slices: prompted ones, and others spread evenly over where the objects are."""
    held = [np.flatnonzero(mask.any((1, 2))) for mask in masks.values()]
    present = np.unique(np.concatenate([np.array(prompted), *held]))
    low, high = max(present.min() - 1, segmented[0]), min(present.max() + 1, segmented[-1])
    wanted = list(dict.fromkeys(prompted))[:count]
    spread = np.linspace(low, high, min(count, high - low + 1)).round().astype(int)
    near = sorted(set(spread.tolist()) - set(wanted), key=lambda i: min(abs(i - p) for p in wanted))
    return sorted({*wanted, *near[: count - len(wanted)]})


def _crop(
    masks: Mapping[int, NDArray[np.bool_]],
    prompts: Sequence[Prompt],
    shape: tuple[int, ...],
    view: View,
) -> tuple[slice, slice]:
    """Rows and columns of a square around everything of interest, with room to see what surrounds it."""
    area = np.zeros(shape, bool)
    for mask in masks.values():
        area |= mask.any(0)
    for prompt in prompts:
        if isinstance(prompt, Box):
            area[int(prompt.y[0]) : int(prompt.y[1]), int(prompt.x[0]) : int(prompt.x[1])] = True
        elif isinstance(prompt, Point):
            area[int(prompt.y), int(prompt.x)] = True
    area = view.show(area)
    spans = [np.flatnonzero(area.any(axis)) for axis in (1, 0)]
    if not len(spans[0]):
        return slice(0, area.shape[0]), slice(0, area.shape[1])
    side = max(int(1.8 * max(np.ptp(span) for span in spans)), 64)
    cuts = []
    for span, size in zip(spans, area.shape, strict=True):
        middle, length = int(span.min() + span.max()) // 2, min(side, size)
        start = min(max(middle - length // 2, 0), size - length)
        cuts.append(slice(start, start + length))
    return cuts[0], cuts[1]


def _scale(rows: slice, columns: slice, spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """Picture pixels for each row and column, so that the longer side measures `TILE`."""
    height_mm = (rows.stop - rows.start) * spacing_mm[0]
    width_mm = (columns.stop - columns.start) * spacing_mm[1]
    per_mm = TILE / max(height_mm, width_mm)
    return per_mm * spacing_mm[0], per_mm * spacing_mm[1]


def _sheet(tiles: Sequence[Image.Image], title: str, object_ids: Sequence[int]) -> Image.Image:
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    size = columns * (width + MARGIN) + MARGIN, HEAD + rows * (height + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    x = 8.0
    for object_id, colour in zip(object_ids, _colours(object_ids), strict=True):
        draw.rectangle((x, 11, x + 12, 23), fill=colour)
        draw.text((x + 18, 8), f"{object_id}", fill=INK, font=FONT)
        x += 34 + draw.textlength(f"{object_id}", font=FONT)
    draw.text((x + 6, 8), shortened(title, FONT, sheet.width - x - 12), fill=NOTE, font=FONT)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (MARGIN + column * (width + MARGIN), HEAD + row * (height + MARGIN)))
    return sheet
