"""Prompts written down: the command line's short forms and the JSON file of many.

    {"objects": [{"id": 1, "prompts": [
        {"slice": 57, "box": {"y": [200, 260], "x": [180, 250]}},
        {"slice": 57, "point": {"y": 231, "x": 214}, "positive": false},
        {"slice": 80, "mask": "lesion_z80.png"}]}]}

Prompts of one object on one slice are given to the model together, in this order. A mask is an image file of the
slice's size, non-zero inside, named relative to the JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import MissingInput, PromptError
from runtime.prompts import Box, Mask, Point, Prompt

Calls = list[tuple[int, list[Prompt]]]
"""(object id, prompts of one slice), in the order in which to add them."""


def parse_box(text: str) -> Box:
    """`z,y0,y1,x0,x1`, half-open. Raises PromptError."""
    z, y0, y1, x0, x1 = _numbers(text, ("z,y0,y1,x0,x1",))
    return Box(slice=_whole(z), y=(y0, y1), x=(x0, x1))


def parse_point(text: str) -> Point:
    """`z,y,x`, or `z,y,x,-` for a point outside the object. Raises PromptError."""
    body, negative = (text[:-2], True) if text.endswith(",-") else (text, False)
    z, y, x = _numbers(body, ("z,y,x", "z,y,x,-"))
    return Point(slice=_whole(z), y=y, x=x, positive=not negative)


def read_prompts(path: str | Path) -> Calls:
    """The prompts in a JSON file. Raises MissingInput or PromptError, which says where in the file."""
    file = Path(path)
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise MissingInput(f"no prompts at {file} ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{file} is not JSON: {error}") from error
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list) or not objects:
        raise PromptError(f'{file}: wanted {{"objects": [...]}} with at least one object')
    calls: Calls = []
    for i, entry in enumerate(objects):
        where = f"{file}: objects[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("prompts"), list):
            raise PromptError(f'{where}: wanted {{"id": 1, "prompts": [...]}}, found {entry!r}')
        object_id = entry.get("id", i + 1)
        if not isinstance(object_id, int) or isinstance(object_id, bool):
            raise PromptError(f"{where}: id {object_id!r} is not a whole number")
        prompts = [
            _prompt(given, f"{where}.prompts[{j}]", file.parent)
            for j, given in enumerate(entry["prompts"])
        ]
        calls += group(prompts, object_id)
    return calls


def group(prompts: Sequence[Prompt], object_id: int) -> Calls:
    """Prompts of one object as calls: those on one slice together, in order of first mention."""
    slices: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        slices.setdefault(prompt.slice, []).append(prompt)
    return [(object_id, together) for together in slices.values()]


def _numbers(text: str, forms: Sequence[str]) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != forms[0].count(",") + 1 or not np.isfinite(numbers).all():
        raise PromptError(f"found '{text}'; wanted {' or '.join(forms)} with numbers")
    return numbers


def _whole(value: float) -> int:
    if value != int(value):
        raise PromptError(f"slice {value:g} is not a whole number")
    return int(value)


def _prompt(given: Any, where: str, folder: Path) -> Prompt:
    try:
        index = given["slice"]
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"slice {index!r} is not a whole number")
        if "box" in given:
            (y0, y1), (x0, x1) = given["box"]["y"], given["box"]["x"]
            return Box(slice=index, y=(float(y0), float(y1)), x=(float(x0), float(x1)))
        if "point" in given:
            at = given["point"]
            positive = bool(given.get("positive", True))
            return Point(slice=index, y=float(at["y"]), x=float(at["x"]), positive=positive)
        return Mask(slice=index, mask=_read_mask(folder / given["mask"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(
            f"{where}: {error} in {given!r}; wanted slice and one of box, point, mask"
        ) from error


def _read_mask(path: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 0
    except OSError as error:
        raise PromptError(f"mask {path} cannot be read as an image: {error}") from error
