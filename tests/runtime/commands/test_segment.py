"""The command, from a study on disk to a mask on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import runtime.commands.segment
from runtime.bundle.bundle import EMBEDDED
from runtime.bundle.manifest import MANIFEST
from runtime.commands.segment import main
from runtime.errors import (
    BundleChanged,
    BundleIncomplete,
    InputError,
    MissingInput,
    OutOfMemory,
    PromptError,
    Sam2Error,
    VolumeError,
)
from runtime.io import Volume, read_volume, write_mask
from runtime.jobs import Job
from runtime.measure.phantom import Phantom, make_phantom
from tests.reports import confidences, read_report

SHAPE = (5, 64, 64)
MIDDLE = 2
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
PHANTOM: Phantom = make_phantom(SHAPE, seed=3)
VOLUME = Volume(PHANTOM.pixels, (2.5, 0.75, 0.8), (-120.5, 33.25, 810.75), OBLIQUE)


def as_box(object_id: int) -> str:
    box = PHANTOM.box(MIDDLE, object_id)
    return ",".join(str(v) for v in (MIDDLE, *box.y, *box.x))


BOX = as_box(1)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study in every format that is read."""
    folder = tmp_path_factory.mktemp("studies")
    image = VOLUME.to_image()
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(folder / f"study{suffix}"))
    (folder / "series").mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(SHAPE[0]):
        plane = sitk.Cast(image[:, :, z], sitk.sitkInt16)
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.826.0.1.{z + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.826.0.2",
            "0020|000e": "1.2.826.0.3",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{v:.6f}" for v in position),
            "0020|0037": "\\".join(f"{OBLIQUE[i]:.6f}" for i in (0, 3, 6, 1, 4, 7)),
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / "series" / f"{z:03d}.dcm"))
        writer.Execute(plane)
    return folder


@pytest.fixture
def run(
    studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """The command in this process; returns the one JSON line that is all of stdout."""

    def call(*arguments: str, study: str = "study.nrrd", mask: str = "mask.nrrd") -> dict[str, Any]:
        main(["-i", str(studies / study), "-o", str(tmp_path / mask), *arguments])
        (line,) = capsys.readouterr().out.splitlines()
        return read_report(line)

    return call


def read_labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("study", "suffix"),
    [
        ("study.nii.gz", ".nii.gz"),
        ("study.nii", ".nii"),
        ("study.nrrd", ".nrrd"),
        ("study.mha", ".mha"),
        ("series", ".nii.gz"),
    ],
)
def test_the_mask_lies_where_the_study_lies(
    study: str, suffix: str, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    window = ("--window", "128/256") if study == "series" else ()
    report = run("--box", BOX, *window, study=study, mask=f"mask{suffix}")
    image, truth = sitk.ReadImage(str(tmp_path / f"mask{suffix}")), VOLUME.to_image()
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetSize() == truth.GetSize()
    for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, ask)() == pytest.approx(getattr(truth, ask)(), abs=1e-5)
    labels = sitk.GetArrayFromImage(image)
    assert dice(labels == 1, PHANTOM.labels == 1) > 0.7
    assert [path.name for path in tmp_path.iterdir()] == [f"mask{suffix}"]
    assert report["outputs"]["mask"] == str(tmp_path / f"mask{suffix}")
    assert report["input"]["num_slices"] == SHAPE[0] and report["input"]["shape"] == list(SHAPE[1:])


def test_the_report_tells_what_was_found(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = run("--box", BOX)
    labels = read_labels(tmp_path / "mask.nrrd")
    (found,) = report["objects"]
    assert found["id"] == 1
    assert found["voxels"] == int((labels == 1).sum()) > 0
    assert found["volume_ml"] == pytest.approx(found["voxels"] * 2.5 * 0.75 * 0.8 / 1000, abs=1e-3)
    slices = np.flatnonzero((labels == 1).any((1, 2)))
    assert found["extent"] == [slices[0], slices[-1] + 1]
    assert list(confidences(found)) == list(range(SHAPE[0]))
    assert all(0 <= value <= 1 for value in confidences(found).values())
    assert report["outputs"]["preview"] is None
    assert report["input"]["window"] == "none (8-bit already)"
    assert "ONNX Runtime" in report["model"]["backend"]
    timing = report["timing_s"]
    assert sum(timing.values()) - timing["total"] <= timing["total"] + 0.01
    assert timing["propagate"] > 0


def test_an_object_that_is_nowhere_is_reported_as_such(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(tmp_path / "empty.png")
    prompts = {"objects": [{"id": 3, "prompts": [{"slice": 1, "mask": "empty.png"}]}]}
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    (found,) = run("--prompts", str(tmp_path / "p.json"), "--z-range", "1,2")["objects"]
    assert (found["voxels"], found["extent"], confidences(found)) == (0, None, {1: 0.0})
    assert not read_labels(tmp_path / "mask.nrrd").any()


def test_a_file_of_prompts_holds_several_objects_and_a_mask(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    inside = (PHANTOM.labels[MIDDLE] == 2).astype(np.uint8) * 255
    Image.fromarray(inside).save(tmp_path / "second.png")
    first, third = (PHANTOM.box(MIDDLE, object_id) for object_id in (1, 3))
    point = {"y": sum(third.y) // 2, "x": sum(third.x) // 2}
    prompts = {
        "objects": [
            {"id": 300, "prompts": [{"slice": MIDDLE, "mask": "second.png"}]},
            {
                "id": 1,
                "prompts": [
                    {"slice": MIDDLE, "box": {"y": first.y, "x": first.x}},
                    {"slice": MIDDLE, "point": point, "positive": False},
                ],
            },
        ]
    }
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    report = run("--prompts", str(tmp_path / "p.json"))
    labels = read_labels(tmp_path / "mask.nrrd")
    assert labels.dtype == np.uint16
    assert [found["id"] for found in report["objects"]] == [1, 300]
    assert dice(labels == 1, PHANTOM.labels == 1) > 0.7
    assert dice(labels == 300, PHANTOM.labels == 2) > 0.7


def test_each_box_is_an_object(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = run("--box", BOX, "--box", as_box(2))
    labels = read_labels(tmp_path / "mask.nrrd")
    assert [found["id"] for found in report["objects"]] == [1, 2]
    for object_id in (1, 2):
        assert dice(labels == object_id, PHANTOM.labels == object_id) > 0.7


def test_one_box_and_points_are_one_object_within_the_range_asked_for(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows, columns = np.nonzero(PHANTOM.labels[3] == 1)
    point = f"3,{int(rows.mean())},{int(columns.mean())}"
    (found,) = run("--box", BOX, "--point", point, "--point", "3,2,2,-", "--z-range", "1,4")[
        "objects"
    ]
    assert list(confidences(found)) == [1, 2, 3]
    labels = read_labels(tmp_path / "mask.nrrd")
    assert labels[1:4].any((1, 2)).all()
    assert not labels[[0, 4]].any()


def test_a_preview_is_drawn_when_asked_for(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = run("--box", BOX, "--preview", str(tmp_path / "p.png"))
    assert report["outputs"]["preview"] == str(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nrrd", "p.png"]


def cut_short(bundle: Path) -> None:
    graph = bundle / "image_encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


@pytest.mark.parametrize("affine", ["qform", "sform"])
def test_a_study_whose_affines_disagree_is_read_by_the_one_that_is_named(
    affine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, mask = tmp_path / "two.nii", tmp_path / "mask.nii.gz"
    image = nib.Nifti1Image(PHANTOM.pixels.T, None)
    image.set_qform(np.diag([0.8, 0.75, 2.5, 1]), 1)
    image.set_sform(np.diag([-0.8, 0.75, 2.5, 1]), 2)
    nib.save(image, study)
    words = ["-i", str(study), "-o", str(mask), "--box", BOX]
    with pytest.raises(VolumeError, match="--affine qform or --affine sform") as refused:
        main(words)
    assert refused.value.exit_code == 3
    main([*words, "--affine", affine])
    assert json.loads(capsys.readouterr().out)["options"]["affine"] == affine
    assert read_volume(mask, affine=affine).direction[0] == (-1 if affine == "qform" else 1)
    for name in ("qform", "sform"):
        ours, theirs = (
            getattr(nib.load(path), f"get_{name}")(coded=True) for path in (mask, study)
        )
        assert np.array_equal(ours[0], theirs[0]) and ours[1] == theirs[1]


def change_a_byte(bundle: Path) -> None:
    graph = bundle / "mask_decoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)


def cut_the_manifest(bundle: Path) -> None:
    manifest = bundle / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:200])


@pytest.fixture
def place(studies: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with a study, an older mask and an older preview, which must be all that is there afterwards."""
    shutil.copy(studies / "study.nrrd", tmp_path / "study.nrrd")
    for name in ("mask.nrrd", "p.png"):
        (tmp_path / name).write_bytes(b"older")
    (tmp_path / "folder.png").mkdir()
    four = sitk.JoinSeries([VOLUME.to_image()] * 2)
    sitk.WriteImage(four, str(tmp_path / "four.nii.gz"))
    before = snapshot(tmp_path)
    yield tmp_path
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() if path.is_file() else b"folder" for path in folder.iterdir()
    }


def arguments(place: Path, *more: str, **changed: str) -> list[str]:
    """Of a run that would do; `changed` names files in the folder that are given instead."""
    names = {"i": "study.nrrd", "o": "mask.nrrd", "preview": "p.png", **changed}
    dashed = {"i": "-i", "o": "-o", "preview": "--preview"}
    return [word for key, name in names.items() for word in (dashed[key], str(place / name))] + [
        *more
    ]


OK = ("--box", BOX)

REFUSED: dict[str, tuple[type[Sam2Error], str, dict[str, str], tuple[str, ...]]] = {
    "missing study": (MissingInput, "does not exist", {"i": "absent.nrrd"}, OK),
    "4-D study": (VolumeError, "found 4 axes", {"i": "four.nii.gz"}, OK),
    "suffix of the mask": (InputError, "no suffix a mask", {"o": "mask.png"}, OK),
    "mask over its study": (InputError, "is the input itself", {"o": "study.nrrd"}, OK),
    "folder of the mask": (MissingInput, "is not a folder", {"o": "absent/mask.nrrd"}, OK),
    "suffix of the preview": (InputError, "no suffix a preview", {"preview": "p.bmp"}, OK),
    "folder of the preview": (MissingInput, "is not a folder", {"preview": "absent/p.png"}, OK),
    "folder for a preview": (InputError, "is a folder", {"preview": "folder.png"}, OK),
    "no series": (InputError, "is a file", {}, (*OK, "--series", "1.2.3")),
    "box outside": (PromptError, "box y", {}, ("--box", "2,10,65,10,20")),
    "slice outside": (PromptError, "no slice 5", {}, ("--point", "5,1,1")),
    "no box": (PromptError, "wanted z,y0,y1,x0,x1", {}, ("--box", "2,10,20")),
    "boxes and points": (PromptError, "--prompts file", {}, (*OK, *OK, "--point", "2,1,1")),
    "prompts twice": (PromptError, "do not mix", {}, (*OK, "--prompts", "p.json")),
    "missing prompts": (MissingInput, "no prompts at", {}, ("--prompts", "absent.json")),
    "window": (InputError, "found the window", {}, (*OK, "--window", "kidney")),
    "range": (InputError, "found the z-range", {}, (*OK, "--z-range", "3")),
    "range that does not fit": (InputError, "does not fit", {}, (*OK, "--z-range", "2,9")),
    "prompt outside the range": (PromptError, "outside the z-range", {}, (*OK, "--z-range", "3,5")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, why, changed, more = REFUSED[case]
    with pytest.raises(error, match=why) as refused:
        main(arguments(place, *more, **changed))
    assert refused.value.exit_code == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("preview", ["drawn.png", "link.png", "prompts.png"])
def test_a_preview_over_what_is_asked_is_refused(
    studies: Path, tmp_path: Path, preview: str
) -> None:
    shutil.copy(studies / "study.nrrd", tmp_path / "study.nrrd")
    Image.new("L", (64, 64)).save(tmp_path / "drawn.png")
    (tmp_path / "link.png").symlink_to("drawn.png")
    asked = {"objects": [{"prompts": [{"slice": 2, "mask": "drawn.png"}]}]}
    (tmp_path / "prompts.png").write_text(json.dumps(asked))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="is a file of the prompts; name another"):
        main(arguments(tmp_path, "--prompts", str(tmp_path / "prompts.png"), preview=preview))
    assert snapshot(tmp_path) == before


def test_slices_too_thick_to_be_fused_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thick = Volume.from_array(VOLUME.array, (2000.0, 0.5, 0.5))
    write_mask(tmp_path / "thick.nrrd", VOLUME.array, thick)
    monkeypatch.setattr(Job, "load", None)
    with pytest.raises(InputError, match="wanted at most 8192: leave fusion out"):
        main(arguments(tmp_path, *OK, "--fuse", "mean", i="thick.nrrd"))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (cut_short, BundleIncomplete),
        (change_a_byte, BundleChanged),
        (cut_the_manifest, BundleIncomplete),
    ],
)
def test_a_damaged_bundle_is_refused(
    damage: Callable[[Path], None],
    error: type[Sam2Error],
    place: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path_factory.mktemp("bundles") / "damaged"
    shutil.copytree(EMBEDDED, bundle)
    damage(bundle)
    with pytest.raises(error) as refused:
        main(arguments(place, *OK, "--bundle", str(bundle)))
    assert refused.value.exit_code == 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "more",
    [
        (),
        (*OK, "--backend", "abacus"),
        (*OK, "--threads", "many"),
        (*OK, "-i", ""),
        (*OK, "-o", ""),
    ],
)
def test_a_mistake_in_the_command_is_a_usage_error(
    more: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments(place, *more))
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: medsam2 segment" in shown.err


@pytest.mark.parametrize("step", ["track_step", "draw_preview", "write_mask"])
def test_what_fails_half_way_leaves_nothing_behind(
    step: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OutOfMemory("full")

    owner = runtime.predictors.search if step == "track_step" else runtime.jobs.volume
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OutOfMemory):
        main(arguments(place, *OK))
    assert capsys.readouterr().out == ""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runtime.segment", *words]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def test_the_process_leaves_with_the_errors_code_and_one_line_on_stderr(place: Path) -> None:
    words = arguments(place, *OK, i="absent.nrrd")
    done = subprocess.run(command(*words), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "absent.nrrd does not exist" in line


def test_a_full_disk_is_exit_code_1_and_the_older_mask_is_kept(place: Path) -> None:
    # A limit on file size stands for the full disk.
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    code = limit + "os.execv(sys.argv[1], sys.argv[1:])"
    words = command(*arguments(place, *OK, "--threads", "1"))
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, env=ENVIRONMENT
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"mask.nrrd could not be written: File too large" in done.stderr.splitlines()[-1]


def test_an_interrupted_run_leaves_nothing_behind(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    long = tmp_path_factory.mktemp("long") / "long.mha"  # minutes of work
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4000, 32, 32), np.uint8)), str(long))
    words = [*arguments(place, "--box", "2000,5,20,5,20"), "-i", str(long), "--threads", "1"]
    # A child inherits an ignored SIGINT, as of a test run in the background, but no handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stderr
            seen = b""
            while b"segment:" not in seen:  # the progress bar: it has begun
                more = process.stderr.read1()
                assert more, seen
                seen += more
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == b""
    assert error.decode().splitlines()[-1] == "interrupted"
