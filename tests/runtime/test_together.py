"""Two runs that write the same thing at once: one of them wins, whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.backends.certificate import write
from runtime.io import Volume, read_volume, write_mask
from runtime.io.pictures.images import write_label_image
from runtime.preview.preview import write_preview

TIMES, SIDE = 12, 40


def preview(folder: Path, value: int) -> None:
    write_preview(folder / "there.png", Image.new("L", (SIDE, SIDE), value))


def label_image(folder: Path, value: int) -> None:
    write_label_image(folder, "there", np.full((SIDE, SIDE), value, np.uint8))


def picture_value(folder: Path) -> set[int]:
    return set(np.unique(np.asarray(Image.open(folder / "there.png"))).tolist())


def certificate(folder: Path, value: int) -> None:
    write({"values": [value] * 1000}, folder / "there.json")


def certificate_value(folder: Path) -> set[int]:
    return set(json.loads((folder / "there.json").read_text())["values"])


def mask(folder: Path, value: int) -> None:
    volume = Volume.from_array(np.full((3, SIDE, SIDE), value, np.uint8))
    write_mask(folder / "there.nii.gz", volume.array, like=volume)


def mask_value(folder: Path) -> set[int]:
    return set(np.unique(read_volume(folder / "there.nii.gz").array).tolist())


def _write_often(write_once: Callable[[Path, int], None], folder: Path, value: int) -> None:
    for _ in range(TIMES):
        write_once(folder, value)


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
@pytest.mark.parametrize(
    ("write_once", "values"),
    [
        (preview, picture_value),
        (label_image, picture_value),
        (certificate, certificate_value),
        (mask, mask_value),
    ],
)
def test_two_writers_do_not_collide(
    write_once: Callable[[Path, int], None], values: Callable[[Path], set[int]], tmp_path: Path
) -> None:
    write_once(tmp_path, 1)
    writers = [
        get_context("fork").Process(target=_write_often, args=(write_once, tmp_path, value))
        for value in (1, 2)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert values(tmp_path) in ({1}, {2})
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(os.listdir(tmp_path)) == 1
