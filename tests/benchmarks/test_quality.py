from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.overlap import compare, dice
from runtime import Volume, write_mask
from runtime.errors import InputError, MissingInput, VolumeError
from runtime.io.itk import sitk
from runtime.phantom import make_phantom


def ball(shape: tuple[int, int, int], middle: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)) < radius**2


def test_the_same_mask_agrees_fully_and_empty_masks_agree_too() -> None:
    mask = ball((12, 20, 20), (6, 10, 10), 5)
    same = compare(mask, mask, (1.0, 1.0, 1.0))
    assert (same.dice, same.iou, same.hd95_mm, same.nsd) == (1.0, 1.0, 0.0, 1.0)
    nothing = np.zeros_like(mask)
    assert compare(nothing, nothing, (1, 1, 1)).dice == 1.0
    missed = compare(nothing, mask, (1, 1, 1))
    assert missed.dice == missed.nsd == 0.0 and np.isnan(missed.hd95_mm)


def test_distances_are_in_millimetres_along_the_right_axis() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:10, 5:10, 5:10] = True
    moved = np.roll(mask, 3, axis=0)
    along_z = compare(moved, mask, (4.0, 1.0, 1.0))
    assert along_z.hd95_mm == pytest.approx(12.0)
    assert compare(moved, mask, (1.0, 4.0, 4.0)).hd95_mm == pytest.approx(3.0)
    assert along_z.dice == pytest.approx(0.4) and along_z.iou == pytest.approx(0.25)
    assert along_z.nsd < compare(np.roll(mask, 1, axis=1), mask, (4.0, 1.0, 1.0)).nsd == 1.0


def test_dice_by_hand() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert dice(a, b) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as MedSAM2's and a NIfTI pair, with one easy object each."""
    folder = tmp_path_factory.mktemp("labelled")
    phantom = make_phantom((9, 96, 96), seed=2)
    truth = (phantom.labels == 1).astype(np.uint8)
    np.savez(folder / "case.npz", imgs=phantom.pixels, gts=truth, spacing=[1.0, 1.0, 3.0])
    volume = Volume.from_array(phantom.pixels, (3.0, 1.0, 1.0))
    sitk.WriteImage(volume.to_image(), str(folder / "pair.nii.gz"))
    write_mask(folder / "pair_label.nii.gz", truth, like=volume)
    return folder


def test_a_folder_of_labelled_volumes_is_measured(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    quality.main(["--folder", str(labelled), "-o", str(out)])
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    boxes = report["summary"]["volumes"]["box"]
    assert boxes["cases"] == 2
    assert boxes["prompted_slice"] > 0.8
    assert 0.3 < boxes["dice"] <= 1.0
    rows = json.loads(out.read_text())["cases"]
    archive, pair = (r for r in rows if r["prompt"] == "box")
    assert archive["dice"] == pytest.approx(pair["dice"])  # the same volume in two formats
    assert archive["hd95_mm"] == pytest.approx(pair["hd95_mm"], rel=1e-3)


def test_a_mask_prompt_reproduces_its_slice(labelled: Path) -> None:
    case = next(quality.folder_cases(labelled))
    predictor = quality.VolumePredictor(quality.load())
    predictor.set_volume(case.volume)
    row = quality.judge(predictor, case, "mask")
    assert row["prompted_slice"] > 0.95
    assert row["copy_of_mask"] > 0.5


def test_an_empty_folder_an_unlabelled_archive_and_a_wrong_prompt_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(MissingInput):
        list(quality.folder_cases(tmp_path))
    np.savez(tmp_path / "plain.npz", imgs=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(VolumeError, match="gts"):
        list(quality.folder_cases(tmp_path))
    with pytest.raises(InputError, match="scribble"):
        quality.main(["--prompts", "scribble"])


def test_phantom_cases_share_their_volume_and_end_with_flows() -> None:
    cases = list(quality.phantom_cases(1))
    volumes = [c for c in cases if not c.is_flow]
    assert len({id(c.volume) for c in volumes}) == 1
    assert cases[-1].is_flow and cases[-1].key == 0
    for case in volumes:
        assert case.truth[case.key].sum() >= quality.MIN_AREA
