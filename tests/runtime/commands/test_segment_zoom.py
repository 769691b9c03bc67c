"""The command with zoom: what it draws, and what it says of crops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.commands.segment import main
from runtime.errors import InputError
from runtime.io import Volume, read_volume, write_mask
from runtime.jobs import Job
from runtime.jobs.crop_report import CropReport, crop_reports
from runtime.predictors.region import Region
from tests.fakes import SEEING, fake_model
from tests.reports import read_report

DEPTH, SIDE, KEY = 8, 200, 3
Run = Callable[..., dict[str, Any]]


def drifting() -> Any:
    pixels = np.full((DEPTH, SIDE, SIDE), 10, np.uint8)
    for z in range(DEPTH):
        pixels[z, 90:110, 70 + 9 * z : 90 + 9 * z] = 200
    return pixels


PIXELS = drifting()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on a volume, or on its slices as frames or images."""
    write_mask(tmp_path / "study.nrrd", PIXELS, Volume.from_array(PIXELS))
    (tmp_path / "frames").mkdir()
    for i, plane in enumerate(PIXELS):
        Image.fromarray(plane).save(tmp_path / "frames" / f"{i:02d}.png")
    model, backend = fake_model(SEEING)
    monkeypatch.setattr(Job, "load", lambda job: model)

    def call(kind: str, *words: str, key: int = KEY) -> dict[str, Any]:
        source, mask = ("study.nrrd", "mask.nrrd") if kind == "volume" else ("frames", "masks")
        files = ["-i", str(tmp_path / source), "-o", str(tmp_path / mask), "--as", kind]
        prompt = f"{key},90,110,{70 + 9 * key},{90 + 9 * key}"
        backend.calls.clear()
        main([*files, "--window", "none", "--box", prompt, *words])
        report = read_report(capsys.readouterr().out)
        images = [each.inputs["image"] for each in backend.calls if "image" in each.inputs]
        assert report["num_encodings"] == sum(map(len, images))
        return report

    return call


def test_a_volume_is_seen_through_crops_and_the_report_says_so(run: Run, tmp_path: Path) -> None:
    coarse = run("volume")
    assert coarse["objects"][0]["crops"] == [] and coarse["num_encodings"] == DEPTH
    report = run("volume", "--zoom", "3", "--preview", str(tmp_path / "sheet.png"))
    (found,) = report["objects"]
    crops = found["crops"]
    assert [crop["reason"] for crop in crops].count("prompt") == 1
    first = next(crop for crop in crops if crop["reason"] == "prompt")
    assert first["y"] == [70, 130] and first["x"] == [77, 137]
    assert first["slices"][0] <= KEY < first["slices"][1]
    assert len(crops) >= 2, "it drifts out of the first one"
    assert crops[0]["slices"][0] == 0 and crops[-1]["slices"][1] == DEPTH
    for before, after in pairwise(crops):
        assert before["slices"][1] == after["slices"][0]
    assert report["num_encodings"] > DEPTH
    mask = read_volume(tmp_path / "mask.nrrd").array > 0
    assert (mask & (PIXELS > 100)).sum() > 0.7 * (PIXELS > 100).sum()


def test_what_is_cleaned_afterwards_is_reported_as_it_was_seen(run: Run) -> None:
    plain, cleaned = run("volume", "--zoom", "3"), run("volume", "--zoom", "3", "--clean", "both")
    assert plain["objects"][0]["crops"] == cleaned["objects"][0]["crops"] != []
    preset = run("volume", "--zoom", "3", "--preset", "medsam2_lesion")
    assert preset["objects"][0]["crops"] == plain["objects"][0]["crops"]
    fused = run("volume", "--zoom", "3", "--fuse", "mean")
    assert fused["objects"][0]["crops"] == plain["objects"][0]["crops"]


def test_a_crop_of_all_of_a_slice_is_one_too(run: Run) -> None:
    report = run("volume", "--zoom", "50")
    assert report["objects"][0]["crops"] == [
        {"slices": [0, DEPTH], "y": [0, SIDE], "x": [0, SIDE], "reason": "prompt"}
    ]
    assert report["num_encodings"] == DEPTH


def test_a_video_and_a_set_of_images_have_crops(run: Run, tmp_path: Path) -> None:
    report = run("video", "--zoom", "3", key=0)
    crops = report["objects"][0]["crops"]
    assert crops[0]["slices"][0] == 0 and crops[0]["reason"] == "prompt"
    assert {crop["reason"] for crop in crops[1:]} == {"edge"}
    drawn = np.asarray(Image.open(sorted((tmp_path / "masks").iterdir())[-1])) > 0
    assert (drawn & (PIXELS[-1] > 100)).any()


def test_the_prompted_image_of_a_set_has_a_crop(run: Run) -> None:
    crops = run("images", "--zoom", "3")["objects"][0]["crops"]
    assert [crop["slices"] for crop in crops] == [[0, KEY], [KEY, KEY + 1], [KEY + 1, DEPTH]]
    assert crops[1]["reason"] == "prompt" and crops[0]["x"] == crops[2]["x"] == [0, SIDE]


@pytest.mark.parametrize("kind", ["volume", "images", "video"])
@pytest.mark.parametrize("zoom", ["0.99", "nan", "inf", "-inf", "0"])
def test_a_zoom_out_of_range_is_refused_before_anything_is_read(zoom: str, kind: str) -> None:
    with pytest.raises(InputError, match="zoom"):
        main(f"-i nothing -o m.nrrd --as {kind} --box 0,0,1,0,1 --zoom={zoom}".split())


def test_crops_are_told_by_ranges_of_slices() -> None:
    small, large = Region((2, 4), (2, 4)), Region((0, 8), (0, 8))
    shown = {1: large, 2: large, 3: small, 4: small, 6: small, 7: large}
    assert crop_reports(shown, [3]) == [
        CropReport(1, 3, large, "edge"),
        CropReport(3, 5, small, "prompt"),
        CropReport(6, 7, small, "prompt"),
        CropReport(7, 8, large, "edge"),
    ]
    assert crop_reports(shown, [3, 7])[0].reason == "prompt"
    assert crop_reports({}, [3]) == []
