"""The command with a network without memory: volumes slice by slice, images one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.bundle.bundle import Bundle
from runtime.commands.segment import main
from runtime.errors import BundleError, InputError
from runtime.io import Volume, read_volume
from runtime.io.volumes.itk import sitk
from runtime.measure.phantom import make_phantom
from tests.clips import write_clip
from tests.reports import read_report

PHANTOM = make_phantom((7, 64, 64), seed=3)
BOX = ",".join(str(v) for v in (3, *PHANTOM.box(3, 1).y, *PHANTOM.box(3, 1).x))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    sitk.WriteImage(Volume.from_array(PHANTOM.pixels).to_image(), str(tmp_path / "ct.nii.gz"))
    return tmp_path / "ct.nii.gz"


@pytest.fixture
def run(
    toy_sam_bundle: Bundle, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Any:
    def segment(*arguments: str, source: Path = study, output: str = "mask.nii.gz") -> Any:
        bundle = ["--bundle", str(toy_sam_bundle.path), "--backend", "ort"]
        main(["-i", str(source), "-o", str(tmp_path / output), *bundle, *arguments])
        return read_report(capsys.readouterr().out)

    return segment


def test_a_volume_is_segmented_slice_by_slice(
    run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report = run("--box", BOX, "--z-range", "2,6", "--preview", str(tmp_path / "p.png"))
    mask = read_volume(tmp_path / "mask.nii.gz").array
    assert mask.shape == PHANTOM.pixels.shape
    assert not mask[:2].any() and not mask[6:].any() and mask[3].any()
    assert report["model"]["name"] == "toy_sam"
    assert report["num_encodings"] == 4
    assert report["options"]["memory"] is report["options"]["pick_up"] is None
    slices = {row["slice"]: row for row in report["objects"][0]["slices"]}
    assert sorted(slices) == [2, 3, 4, 5]
    assert (tmp_path / "p.png").is_file()
    assert "calibrate" not in caplog.text, "there is nothing to measure of a network without memory"


def test_masks_may_be_cleaned(run: Any, tmp_path: Path) -> None:
    run("--box", BOX, "--z-range", "2,6")
    plain = read_volume(tmp_path / "mask.nii.gz").array
    run("--box", BOX, "--z-range", "2,6", "--clean", "both", output="clean.nii.gz")
    clean = read_volume(tmp_path / "clean.nii.gz").array
    assert clean.any() and (clean != plain).any(), "what a random network draws has loose ends"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "confidence"], "leave out --memory and --pick-up"),
        (["--zoom", "3"], "leave out --zoom"),
        (["--stop-below", "0.5"], "leave out --stop-below"),
        (["--preset", "medsam2_lesion", "--fuse", "mean"], "leave out --preset, --fuse"),
    ],
)
def test_what_needs_a_memory_is_refused(run: Any, arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=f"has no memory; {said}"):
        run("--box", BOX, "--z-range", "2,6", *arguments)


def test_a_volume_wants_a_range(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not tell where an object ends"):
        run("--box", BOX)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_images_are_segmented_where_they_are_prompted(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in (("a", PHANTOM.pixels[3]), ("b", PHANTOM.pixels[4][:, :50])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    box = BOX.replace("3,", "0,", 1)
    report = run("--box", box, source=folder, output="masks")
    assert [p.name for p in (tmp_path / "masks").iterdir()] == ["a.png"]
    assert np.asarray(Image.open(tmp_path / "masks" / "a.png")).shape == (64, 64)
    assert [row["slice"] for row in report["objects"][0]["slices"]] == [0]
    with pytest.raises(InputError, match="leave out --order"):
        run("--box", box, "--order", "similar", source=folder, output="others")


def test_a_video_is_refused_in_one_sentence(run: Any, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, [*np.repeat(PHANTOM.pixels[..., None], 3, -1)])
    with pytest.raises(BundleError, match="segments single images and has no memory"):
        run("--box", "0,5,20,5,20", source=clip, output="masks")
