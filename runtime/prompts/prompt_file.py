"""Prompts written down: the command line's short forms and the JSON file of many.

    {"objects": [{"id": 1, "prompts": [
        {"slice": 57, "box": {"y": [200, 260], "x": [180, 250]}},
        {"slice": 57, "point": {"y": 231, "x": 214}, "positive": false},
        {"slice": 80, "mask": "lesion_z80.png"}]}]}

Prompts of one object on one slice are given to the model together, in this order. A mask is an image file of the
slice's size, upright as its EXIF says, zero outside and of one value inside, named relative to the JSON file. An object
may have a `code`, and a `category`, SCHEME:VALUE:MEANING: what it is called where masks are written as DICOM.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from runtime.errors import InputError, MissingInput, PromptError
from runtime.files.strict_json import parse
from runtime.io.dicom.codes import LESION, Code
from runtime.prompts.prompts import (
    Box,
    Mask,
    Point,
    Prompt,
    check_mask,
    check_object_id,
    is_whole,
    shown,
)

_PHOTOMETRIC = 262  # TIFF 6.0: 0 is WhiteIsZero
MOST_BYTES = 2**24  # of a prompt file: a hundred thousand prompts
KEYS = ({"slice", "box"}, {"slice", "point"}, {"slice", "point", "positive"}, {"slice", "mask"})

NAMES, STDIN = ("code", "category"), "-"

Calls = list[tuple[int, list[Prompt]]]
"""(object id, prompts of one slice), in the order in which to add them."""


def parse_box(text: str) -> Box:
    """`z,y0,y1,x0,x1`, half-open. Raises PromptError."""
    z, y0, y1, x0, x1 = parse_numbers(text, ("z,y0,y1,x0,x1",))
    return Box(slice=parse_slice(z), y=(y0, y1), x=(x0, x1))


def parse_point(text: str) -> Point:
    """`z,y,x`, or `z,y,x,-` for a point outside the object. Raises PromptError."""
    body, negative = (text[:-2], True) if text.endswith(",-") else (text, False)
    z, y, x = parse_numbers(body, ("z,y,x", "z,y,x,-"))
    return Point(slice=parse_slice(z), y=y, x=x, positive=not negative)


@dataclass(frozen=True, slots=True)
class PromptFile:
    """What a JSON file of prompts, or a command line, holds.

    Attributes:
        calls: its prompts.
        codes, categories: by object, of those that have them.
        files: itself, unless it is stdin, and the masks that it names.
    """

    calls: Calls
    codes: dict[int, Code] = field(default_factory=dict)
    categories: dict[int, Code] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def read_prompts(path: str | Path) -> PromptFile:
    """Read a JSON file once, so that it may be a pipe; "-" is stdin, whose masks are named from the current folder.

    Raises MissingInput or PromptError, which says where in the file.
    """
    name = "stdin" if path == STDIN else str(path)
    content, file = _read_json(path, name), Path(path)
    found: dict[str, dict[int, Code]] = {kind: {} for kind in NAMES}
    calls: Calls = []
    for object_id, (where, entry) in _objects(content, name).items():
        for kind, code in _named(entry, where).items():
            found[kind][object_id] = code
        prompts = [
            _prompt(item, f"{where}.prompts[{j}]", file.parent)
            for j, item in enumerate(entry["prompts"])
        ]
        calls += group(prompts, object_id)
    own = [] if path == STDIN else [file]
    files = tuple(own + _masks_of(content, file))
    return PromptFile(calls, found["code"], found["category"], files)


def named_in(file: Path) -> list[Path]:
    """Files that a file of prompts names as masks, as far as it can be read."""
    try:
        text = _decoded(file.read_bytes())
        return _masks_of(json.loads(text) if '"mask"' in text else {}, file)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []  # whoever reads it in earnest says what is wrong


def _masks_of(content: Any, file: Path) -> list[Path]:
    objects = content.get("objects", ())
    names = [p["mask"] for o in objects for p in o.get("prompts", ()) if "mask" in p]
    return [file.parent / name for name in names if isinstance(name, str)]


def _objects(content: Any, file: str) -> dict[int, tuple[str, dict[str, Any]]]:
    """By id, where in the file an object is, and what is there."""
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list) or not objects or set(content) != {"objects"}:
        raise PromptError(f'{file}: wanted {{"objects": [...]}} with at least one object')
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for i, entry in enumerate(objects):
        where = f"{file}: objects[{i}]"
        listed = entry.get("prompts") if isinstance(entry, dict) else None
        known = {"id", "prompts", *NAMES}
        if not isinstance(listed, list) or not listed or not set(entry) <= known:
            raise PromptError(
                f'{where}: found {shown(entry)}; wanted {{"id": 1, "prompts": [...]}} with at least one prompt'
            )
        object_id = entry.get("id", i + 1)
        try:
            check_object_id(object_id)
        except PromptError as error:
            raise PromptError(f"{where}: {error}") from error
        if object_id in found:
            raise PromptError(
                f"{where}: id {object_id} is taken; list an object's prompts together"
            )
        found[object_id] = where, entry
    return found


def _named(entry: dict[str, Any], where: str) -> dict[str, Code]:
    """An object's code and category, as far as they are there."""
    for name in NAMES:
        if not isinstance(entry.get(name, ""), str):
            raise PromptError(
                f"{where}: found the {name} {shown(entry[name])}; wanted SCHEME:VALUE:MEANING, such as {LESION}"
            )
    try:
        return {name: Code.parse(entry[name]) for name in NAMES if name in entry}
    except InputError as error:
        raise PromptError(f"{where}: {error}") from error


def _read_json(path: str | Path, file: str) -> Any:
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise MissingInput(f"no prompts at {file} ({error.strerror})") from error
    if len(data) > MOST_BYTES:
        raise PromptError(f"{file} is larger than {MOST_BYTES // 2**20} MiB; wanted prompts")
    try:
        return parse(_decoded(data))
    except ValueError as error:
        raise PromptError(f"{file} is not JSON: {error}") from error


def _decoded(data: bytes) -> str:
    """JSON's text: editors write what they like."""
    return data.decode(json.detect_encoding(data))


def group(prompts: Sequence[Prompt], object_id: int) -> Calls:
    """Prompts of one object as calls: those on one slice together, in order of first mention."""
    slices: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        slices.setdefault(prompt.slice, []).append(prompt)
    return [(object_id, together) for together in slices.values()]


def prompt_entry(prompt: Prompt) -> dict[str, Any]:
    """A prompt as such a file has it; of a mask the number of its pixels."""
    if isinstance(prompt, Box):
        box = {"y": [float(v) for v in prompt.y], "x": [float(v) for v in prompt.x]}
        return {"slice": int(prompt.slice), "box": box}
    if isinstance(prompt, Point):
        point = {"y": float(prompt.y), "x": float(prompt.x)}
        return {"slice": int(prompt.slice), "point": point, "positive": bool(prompt.positive)}
    return {"slice": int(prompt.slice), "mask_pixels": int(np.count_nonzero(prompt.mask))}


def parse_numbers(text: str, forms: Sequence[str]) -> list[float]:
    """Numbers between commas, as many as the first of some forms has. Raises PromptError."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != forms[0].count(",") + 1 or not np.isfinite(numbers).all():
        raise PromptError(f"found '{text}'; wanted {' or '.join(forms)} with numbers")
    return numbers


def parse_slice(value: float) -> int:
    """The number of a slice. Raises PromptError for a fraction."""
    if value != int(value):
        raise PromptError(f"slice {value:g} is not a whole number")
    return int(value)


def _prompt(entry: Any, where: str, folder: Path) -> Prompt:
    if not isinstance(entry, dict) or set(entry) not in KEYS:
        raise PromptError(
            f"{where}: found {shown(entry)}; wanted a slice and one of box, point, mask; "
            "a point may have positive"
        )
    try:
        index, positive = entry["slice"], entry.get("positive", True)
        if not is_whole(index):
            raise TypeError(f"slice {shown(index)} is not a whole number")
        if not isinstance(positive, bool):
            raise TypeError(f"positive {shown(positive)} is neither true nor false")
        for name in ("box", "point"):
            if name in entry and (extra := set(entry[name]) - {"y", "x"}):
                raise TypeError(f"{shown(min(extra))} is not known")
        if "box" in entry:
            (y0, y1), (x0, x1) = entry["box"]["y"], entry["box"]["x"]
            return Box(slice=index, y=(_number(y0), _number(y1)), x=(_number(x0), _number(x1)))
        if "point" in entry:
            y, x = _number(entry["point"]["y"]), _number(entry["point"]["x"])
            return Point(slice=index, y=y, x=x, positive=positive)
        return Mask(slice=index, mask=_read_mask(folder / entry["mask"]))
    except MissingInput as error:
        raise MissingInput(f"{where}: {error}") from error
    except KeyError as error:
        raise PromptError(f"{where}: {error} is missing in {shown(entry)}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{where}: {error} in {shown(entry)}") from error


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{shown(value)} is not a number")
    if not np.isfinite(number := float(value)):
        raise ValueError(f"{number:g} is not finite")
    return number


def _read_mask(path: Path) -> NDArray[np.generic]:
    """Values (y, x) of a mask image. Raises MissingInput or PromptError."""
    try:
        if path.exists() and not path.is_file():
            raise PromptError(f"mask {path} cannot be read as an image: it is no file")
        # Of a file with a name Pillow would map TIFFs into memory, and get those wrong that do not lie upright.
        with (
            warnings.catch_warnings(),
            path.open("rb") as stream,
            Image.open(stream) as image,
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if getattr(image, "n_frames", 1) > 1:
                raise PromptError(f"mask {path} holds several images; wanted one")
            if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
                raise PromptError(
                    f"mask {path} has pixels of which low ones are white (WhiteIsZero), so that nobody knows what is "
                    "inside; save it as PNG, or with BlackIsZero"
                )
            ImageOps.exif_transpose(image, in_place=True)  # as the slice that it was drawn on
            values = _values(image, path)
    except FileNotFoundError as error:
        raise MissingInput(f"no mask at {path}") from error
    except (PromptError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them raise
        raise PromptError(
            f"mask {path} cannot be read as an image: {error}; wanted one such as PNG, of the slice's size"
        ) from error
    try:
        check_mask(values, values.shape[:2])
    except PromptError as error:
        raise PromptError(f"mask {path}: {error}") from error
    return values


def _values(image: Image.Image, path: Path) -> NDArray[np.generic]:
    """Values (y, x): of a palette the numbers and not the colours, of colours those that are grey."""
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if values.ndim == 3 and image.mode in ("LA", "RGB", "RGBA"):
        has_alpha = image.mode.endswith("A")
        colours = values[..., :-1] if has_alpha else values
        is_opaque = not has_alpha or (values[..., -1] == 255).all()
        if is_opaque and (colours == colours[..., :1]).all():
            values = colours[..., 0]
    if values.ndim != 2:
        raise PromptError(
            f"mask {path} has colours or transparency ({image.mode}); wanted one grey value inside"
        )
    return values
