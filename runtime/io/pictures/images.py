"""A folder of 2-D images, PNG, JPEG, BMP, TIFF or DICOM, and masks written back under their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.files.atomic import check_folder, write_whole
from runtime.io.dicom import holds_image, is_dicom, read_dicom_image
from runtime.io.dicom.folder import name_shape
from runtime.io.pictures.picture import IMAGE_SUFFIXES, read_picture
from runtime.io.write import MASK_SUFFIXES

DICOM_SUFFIX = ".dcm"
FILE_SUFFIXES = (*MASK_SUFFIXES, *IMAGE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Images:
    """Images in the order of their names, numbers in names counted as numbers.

    Attributes:
        names: of files, without suffix; with it if two would be the same without.
        arrays: (y, x) of any dtype, or uint8 (y, x, 3).
    """

    names: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]


def read_images(path: str | PathLike[str]) -> Images:
    """Every image in a folder, not below it, where other files are left alone; or one picture.

    Images stand upright, as their EXIF orientation says and every viewer shows them; nothing is resized. Palettes
    and other colour spaces become RGB of 8 bits, transparency is dropped, grey keeps its 16 bits or floats.

    Raises MissingInput if there is no folder or no image in it, InputError for an image that cannot be read.
    """
    place = Path(path)
    try:
        if is_picture(place):
            return Images((_stem(place),), (_read(place),))
        if not place.is_dir():
            raise MissingInput(f"{place} is not a folder; wanted one with images")
        files = _files(place)
        paths = sorted((p for p in files if _is_image(p)), key=_by_number)
        _check_names(set(files) - set(paths), paths)
        if not paths:
            raise MissingInput(f"{place} holds no {', '.join(IMAGE_SUFFIXES)} and no DICOM")
        arrays = tuple(_read(p) for p in paths)
    except OSError as error:
        if isinstance(error, MissingInput):
            raise
        raise InputError(f"{place} cannot be read: {error}") from error
    is_clear = len({_stem(p) for p in paths}) == len(paths)
    return Images(tuple(_stem(p) if is_clear else p.name for p in paths), arrays)


def is_picture(path: Path) -> bool:
    """Whether a path is a file with the suffix of a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def holds_pictures(folder: Path) -> bool:
    """Whether a folder holds any image that is not DICOM."""
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in _files(folder))


def holds_dicom(folder: Path) -> bool:
    """Whether a folder holds any DICOM, which may be a volume's slices or images of their own."""
    return any(map(is_dicom, _files(folder)))


def write_label_image(folder: Path, name: str, labels: NDArray[Any]) -> None:
    """Write labels (y, x), uint8 or uint16, as NAME.png, read back before it has its name. Raises Sam2Error."""

    def check(part: Path) -> None:
        with Image.open(part) as image:
            same = np.array_equal(np.asarray(image), labels)
        if not same:
            raise Sam2Error(
                f"{folder / name}.png reads back otherwise than written; is the disk sound?"
            )

    write_whole(
        folder / f"{name}.png", lambda part: Image.fromarray(labels).save(part, format="PNG"), check
    )


def check_output_folder(folder: Path) -> None:
    """Raise InputError or MissingInput unless masks can go into a folder: a new one, or one that is empty."""
    suffix = next((s for s in FILE_SUFFIXES if folder.name.lower().endswith(s)), None)
    if suffix and not folder.is_dir():
        raise InputError(
            f"{folder} is named as a file; of images and videos each mask is a label image of its own, in a folder: "
            f"name one, such as {folder.name[: -len(suffix)] or 'masks'}"
        )
    check_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; empty it, or name a new folder for the masks")


def make_output_folder(path: str | PathLike[str]) -> Path:
    """A folder for masks, made if it is not there. Raises what `check_output_folder` does."""
    folder = Path(path)
    check_output_folder(folder)
    folder.mkdir(exist_ok=True)
    return folder


def _files(folder: Path) -> list[Path]:
    """What may be opened: no folders, and no pipes, which would be waited for."""
    return [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    is_dicom_file = suffix == DICOM_SUFFIX or (_stem(path) == path.name and is_dicom(path))
    return suffix in IMAGE_SUFFIXES or (is_dicom_file and holds_image(path))


def _check_names(others: set[Path], images: list[Path]) -> None:
    """Raise InputError for a file that is named as the DICOM images without suffix are, and is none."""
    shapes = {name_shape(p.name) for p in images if _stem(p) == p.name}
    for path in sorted(p for p in others if name_shape(p.name) in shapes and not is_dicom(p)):
        raise InputError(
            f"{path} is named as the images are and is none: cut short or damaged; copy it again, or take it out of "
            "the folder"
        )


def _stem(path: Path) -> str:
    """A name without its suffix; what follows the last point of a UID is none."""
    suffix = path.suffix.lower()
    return path.stem if suffix in (*IMAGE_SUFFIXES, DICOM_SUFFIX) else path.name


def _by_number(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], path.name


def _read(path: Path) -> NDArray[Any]:
    return read_picture(path) if path.suffix.lower() in IMAGE_SUFFIXES else read_dicom_image(path)
