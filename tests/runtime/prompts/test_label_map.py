"""Label maps as prompts, on the volume's own grid and on no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import Volume, write_mask
from runtime.errors import PromptError
from runtime.prompts.label_map import calls_of_labels
from runtime.prompts.prompts import Box, Mask

VOLUME = Volume(np.zeros((6, 9, 8), np.int16), (2.0, 0.5, 0.5), (5.0, -3.0, 40.0))


@pytest.fixture
def labels() -> np.ndarray:
    """Object 3 on four slices, the largest of them the third; object 7 on one."""
    drawn = np.zeros(VOLUME.shape, np.uint8)
    drawn[1:4, 2:5, 3:6] = 3
    drawn[3, 2:6, 2:7] = 3
    drawn[5, 8, 7] = 7
    return drawn


def test_each_object_is_boxed_where_it_is_largest(labels: np.ndarray, tmp_path: Path) -> None:
    write_mask(tmp_path / "l.nrrd", labels, VOLUME)
    assert calls_of_labels(tmp_path / "l.nrrd", VOLUME) == [
        (3, [Box(slice=3, y=(2, 6), x=(2, 7))]),
        (7, [Box(slice=5, y=(8, 9), x=(7, 8))]),
    ]


def test_masks_are_those_of_its_key_slices(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "l.npz", imgs=labels, gts=labels)
    calls = calls_of_labels(tmp_path / "l.npz", VOLUME, "masks")
    assert [(object_id, prompt.slice) for object_id, (prompt,) in calls] == [
        *((3, 1), (3, 2), (3, 3), (7, 5))
    ]
    for object_id, (prompt,) in calls:
        assert isinstance(prompt, Mask)
        np.testing.assert_array_equal(prompt.mask, labels[prompt.slice] == object_id)


def test_what_lies_elsewhere_or_is_no_label_map_is_refused(
    labels: np.ndarray, tmp_path: Path
) -> None:
    moved = replace(VOLUME, origin_mm=(5.0, -3.0, 40.6))
    write_mask(tmp_path / "moved.mha", labels, moved)
    with pytest.raises(PromptError, match=r"corners differ by 0\.6 mm"):
        calls_of_labels(tmp_path / "moved.mha", VOLUME)
    write_mask(tmp_path / "empty.mha", np.zeros_like(labels), VOLUME)
    with pytest.raises(PromptError, match="no object"):
        calls_of_labels(tmp_path / "empty.mha", VOLUME)
    np.savez(tmp_path / "short.npz", imgs=labels[1:], gts=labels[1:])
    with pytest.raises(PromptError, match=r"\(5, 9, 8\), the volume is \(6, 9, 8\)"):
        calls_of_labels(tmp_path / "short.npz", VOLUME)
    np.savez(tmp_path / "odd.npz", imgs=labels, gts=labels * 0.5)
    with pytest.raises(PromptError, match="fractions"):
        calls_of_labels(tmp_path / "odd.npz", VOLUME)
