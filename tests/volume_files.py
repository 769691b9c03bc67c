"""What tests of headers with data files beside them share: the data, a folder of traps, ITK's reading."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from runtime.io import Volume, read_volume
from runtime.io.volumes import voxels
from runtime.io.volumes.voxels import Part

ARRAY = np.random.default_rng(3).integers(-900, 900, (2, 3, 4)).astype("<i2")
RAW = ARRAY.tobytes()
NO_DATA_FILES = [
    "/dev/zero",
    "/dev/stdin",
    "../whole.raw",
    "folder/whole.raw",
    "..",
    "link.raw",
    "zeros.raw",
    "pipe.raw",
    "folder",
    "absent.raw",
    "%",
    "slice%d.raw 1 2 0",
    "slice%d.raw 1 2 -1",
    "slice%d.raw 1 3 1",
    "slice%d.raw 1 1 1",
    "LIST",
    "LIST\nslice1.raw",
    "LIST\nslice1.raw\n/dev/zero",
    "LIST 9\nslice1.raw\nslice2.raw",
    "LIST\nslice1.raw\nslice1.raw",
    "LIST\nslice1.raw\nslice2.raw\nslice1.raw",
]
"""What a header may not name within `folder_of_traps`."""


def assert_as_itk_reads(path: Path) -> None:
    """Voxels, their type and their place."""
    ours, theirs = read_volume(path), Volume.from_image(sitk.ReadImage(str(path)))
    assert ours.array.dtype == theirs.array.dtype
    assert np.array_equal(ours.array, theirs.array)
    assert ours.spacing_mm == pytest.approx(theirs.spacing_mm)
    assert ours.origin_mm == pytest.approx(theirs.origin_mm)
    assert ours.direction == pytest.approx(theirs.direction)


def folder_of_traps(parent: Path) -> Path:
    """A folder with two slices, and whatever else a header might name: links out of it, a device, a pipe, a folder."""
    folder = parent / "here"
    (folder / "folder").mkdir(parents=True)
    for path in (parent / "whole.raw", folder / "folder" / "whole.raw"):
        path.write_bytes(RAW)
    (folder / "slice1.raw").write_bytes(RAW[:24])
    (folder / "slice2.raw").write_bytes(RAW[24:])
    (folder / "link.raw").symlink_to(parent / "whole.raw")
    (folder / "zeros.raw").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.raw")
    return folder


def swapped_for_a_link(parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one file and a link to it, which leads out of the folder as soon as it has been looked up."""
    folder = parent / "swapped"
    folder.mkdir()
    (parent / "secret.raw").write_bytes(RAW)
    (folder / "whole.raw").write_bytes(RAW)
    (folder / "link.raw").symlink_to("whole.raw")

    def swap(part: Part, *rest: object) -> None:
        part.path.unlink()
        part.path.symlink_to(parent / "secret.raw")

    monkeypatch.setattr(voxels, "check_possible", swap)
    return folder
