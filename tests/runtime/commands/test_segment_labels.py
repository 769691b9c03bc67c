"""`medsam2 segment --labels`: what somebody has drawn asks for the same objects again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import Volume, read_volume, write_mask
from runtime.commands.segment import main
from runtime.errors import InputError, PromptError
from runtime.measure.phantom import make_phantom

PHANTOM = make_phantom((3, 64, 64), seed=3)
VOLUME = Volume(PHANTOM.pixels, (2.5, 0.75, 0.8))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A study, and the labels of its first two objects on one slice."""
    write_mask(tmp_path / "ct.nii.gz", PHANTOM.pixels, VOLUME)
    drawn = np.zeros(VOLUME.shape, np.uint8)
    drawn[1] = np.where(PHANTOM.labels[1] <= 2, PHANTOM.labels[1], 0)
    write_mask(tmp_path / "labels.mha", drawn, VOLUME)
    return tmp_path


def segment(files: Path, *words: str) -> np.ndarray:
    output = files / "out.nii.gz"
    main(["-i", str(files / "ct.nii.gz"), "-o", str(output), "--backend", "ort", *words])
    return read_volume(output).array


def test_labels_ask_for_what_their_boxes_would(files: Path) -> None:
    boxes = [PHANTOM.box(1, object_id) for object_id in (1, 2)]
    words = [f"1,{b.y[0]:g},{b.y[1]:g},{b.x[0]:g},{b.x[1]:g}" for b in boxes]
    asked = [part for word in words for part in ("--box", word)]
    labels = str(files / "labels.mha")
    boxed = segment(files, "--labels", labels)
    np.testing.assert_array_equal(boxed, segment(files, *asked))
    assert {*np.unique(boxed)} == {0, 1, 2}
    masked = segment(files, "--labels", labels, "--labels-as", "masks")
    assert (masked != boxed).any()


def test_labels_are_not_written_over(files: Path) -> None:
    drawn = files / "labels.mha"
    (files / "link.mha").symlink_to(drawn)
    before = drawn.read_bytes()
    for name in ("labels.mha", "link.mha"):
        with pytest.raises(InputError, match=f"{name} is the label map that is asked for again"):
            main(["-i", str(files / "ct.nii.gz"), "-o", str(files / name), "--labels", str(drawn)])
    assert drawn.read_bytes() == before


def test_labels_are_not_mixed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = str(files / "labels.mha")
    with pytest.raises(PromptError, match="do not mix"):
        segment(files, "--labels", labels, "--recist", "1,20,20,30,30")
    with pytest.raises(SystemExit):
        segment(files, "--box", "1,20,30,20,30", "--labels-as", "box")
    assert "--labels" in capsys.readouterr().err
