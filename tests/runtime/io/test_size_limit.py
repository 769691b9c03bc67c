"""Volumes are bounded before room is made for them, where somebody says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import VolumeError
from runtime.io.read import read_volume
from runtime.io.size_limit import no_larger_than
from runtime.io.volumes.volume import Volume
from runtime.io.write import write_mask
from tests.dicoms import save_series

SHAPE = (4, 20, 30)  # 2400 bytes


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "npz", "dicom"])
def test_what_does_not_fit_is_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    path, size = tmp_path / f"a.{suffix}", 2400
    if suffix == "npz":
        np.savez_compressed(path, imgs=np.zeros(SHAPE, np.uint8))
    elif suffix == "dicom":
        size = save_series(path).nbytes
    else:
        write_mask(path, np.zeros(SHAPE, np.uint8), Volume.from_array(np.zeros(SHAPE)))
    with no_larger_than(size):
        assert read_volume(path).array.nbytes == size
    told: list[int] = []
    with no_larger_than(size, told.append):
        read_volume(path)
    assert told == [size]
    with no_larger_than(size - 1, told.append), pytest.raises(VolumeError, match="wanted at most"):
        read_volume(path)
    assert told == [size]
    assert read_volume(path).array.nbytes == size
