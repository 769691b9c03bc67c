"""The command on a video, or on a folder of its frames: a label image for each frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime.jobs.video
from runtime.commands.segment import main
from runtime.errors import InputError, MissingInput, OutOfMemory, PromptError, Sam2Error
from runtime.io.pictures.video import read_video
from runtime.jobs.video import KEPT, Sample
from runtime.measure.phantom import Phantom, make_phantom
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.model import load
from runtime.predictors.video import VideoPredictor
from runtime.preview.preview import COLOURS, MARGIN, TILE
from tests.clips import write_clip
from tests.reports import confidences, read_report

SHAPE = (6, 64, 80)
PHANTOM: Phantom = make_phantom(SHAPE, seed=3)
FIRST = 1  # the frame that is prompted

Run = Callable[..., dict[str, Any]]


def as_box(frame: int, object_id: int = 1) -> str:
    box = PHANTOM.box(frame, object_id)
    return ",".join(str(v) for v in (frame, *box.y, *box.x))


BOX = as_box(FIRST)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i}.png")
    return folder


def read_labels(folder: Path) -> dict[str, np.ndarray]:
    labels = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            assert image.format == "PNG"
            labels[path.name] = np.asarray(image)
    return labels


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.avi", [np.repeat(p[..., None], 3, 2) for p in PHANTOM.pixels])
    return tmp_path / "clip.avi"


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames", PHANTOM.pixels)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process; returns the one JSON line that is all of stdout."""

    def call(source: Path, *arguments: str) -> dict[str, Any]:
        words = [
            "-i",
            str(source),
            "-o",
            str(tmp_path / "masks"),
            "--threads",
            "1",
            "--report-memory",
        ]
        main([*words, *(("--as", "video") if source.is_dir() else ()), *arguments])
        (line,) = capsys.readouterr().out.splitlines()
        return read_report(line)

    return call


@pytest.mark.parametrize("kind", ["clip", "frames"])
def test_each_frame_from_the_prompt_on_gets_a_mask(
    kind: str, run: Run, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    report = run(request.getfixturevalue(kind), "--box", BOX)
    labels = read_labels(tmp_path / "masks")
    assert list(labels) == [f"{i:06d}.png" for i in range(FIRST, SHAPE[0])]
    found = np.stack(list(labels.values()))
    assert found.dtype == np.uint8
    assert found.shape[1:] == SHAPE[1:]
    assert dice(found == 1, PHANTOM.labels[FIRST:] == 1) > 0.8
    near = slice(0, 3)  # a demonstration model may lose it at its very end
    for mask, truth in zip(found[near] == 1, PHANTOM.labels[FIRST:][near] == 1, strict=True):
        assert dice(mask, truth) > 0.5
    assert report["input"]["num_slices"] == SHAPE[0]


def test_the_report_tells_what_was_found(run: Run, frames: Path, tmp_path: Path) -> None:
    report = run(frames, "--box", BOX, "--box", as_box(3, 2))
    assert report["outputs"]["mask"] == str(tmp_path / "masks")
    assert report["outputs"]["preview"] is None
    labels = read_labels(tmp_path / "masks")
    for object_id in (1, 2):
        assert dice(labels["000003.png"] == object_id, PHANTOM.labels[3] == object_id) > 0.7
    one, two = report["objects"]
    assert (one["id"], list(confidences(one))) == (1, [1, 2, 3, 4, 5])
    assert (two["id"], list(confidences(two))) == (2, [3, 4, 5])
    values = [c for found in (one, two) for c in confidences(found).values()]
    assert all(0 <= value <= 1 for value in values)
    assert confidences(one)[1] > 0.5 and confidences(two)[3] > 0.5
    review = report["review"]
    assert review == sorted(review, key=lambda each: each["confidence"])
    assert {(2, 1), (3, 1), (4, 1), (5, 1), (4, 2), (5, 2)} <= {
        (row["slice"], row["object"]) for row in review
    }
    for frame, object_id, confidence in (row.values() for row in review):
        assert confidences(report["objects"][object_id - 1])[frame] == confidence


def test_the_result_is_that_of_the_predictor(run: Run, clip: Path, tmp_path: Path) -> None:
    run(clip, "--box", BOX)
    video = VideoPredictor(load(threads=1))
    labels = read_labels(tmp_path / "masks")
    for i, frame in enumerate(read_video(clip)):
        masks = video.push(frame)
        if i == FIRST:
            masks = {1: video.add(PHANTOM.box(i, 1))}
        if i >= FIRST:
            np.testing.assert_array_equal(labels[f"{i:06d}.png"] == 1, masks[1].mask())


def test_a_later_prompt_corrects_what_was_tracked(run: Run, frames: Path, tmp_path: Path) -> None:
    run(frames, "--box", BOX)
    before = read_labels(tmp_path / "masks")
    (tmp_path / "masks").rename(tmp_path / "before")
    rows, columns = np.nonzero(PHANTOM.labels[3] == 2)
    run(frames, "--box", BOX, "--point", f"3,{int(rows.mean())},{int(columns.mean())}")
    after = read_labels(tmp_path / "masks")
    for i in (1, 2):
        np.testing.assert_array_equal(after[f"{i:06d}.png"], before[f"{i:06d}.png"])
    assert (after["000003.png"] != before["000003.png"]).any()


def test_a_prompt_file_adds_objects_on_any_frame(
    run: Run, frames: Path, tmp_path: Path, telling: None
) -> None:
    Image.fromarray((PHANTOM.labels[4] == 2).astype(np.uint8) * 255).save(tmp_path / "m.png")
    prompts = {
        "objects": [
            {"id": 9, "prompts": [{"slice": 4, "mask": "../m.png"}]},
            {"id": 300, "prompts": [{"slice": 2, "point": {"y": 9, "x": 9}}]},
        ]
    }
    (tmp_path / "frames" / "p.json").write_text(json.dumps(prompts))
    report = run(frames, "--prompts", str(frames / "p.json"))
    labels = read_labels(tmp_path / "masks")
    assert list(labels) == [f"{i:06d}.png" for i in (2, 3, 4, 5)]
    for name in ("000002.png", "000003.png"):
        assert set(np.unique(labels[name])) == {0, 300}
    assert dice(labels["000004.png"] == 9, PHANTOM.labels[4] == 2) > 0.7
    seen = {found["id"]: list(confidences(found)) for found in report["objects"]}
    assert seen == {9: [4, 5], 300: [2, 3, 4, 5]}


def test_colour_and_grey_frames_of_the_same_pictures_give_the_same(
    run: Run, frames: Path, tmp_path: Path
) -> None:
    run(frames, "--box", BOX)
    grey = read_labels(tmp_path / "masks")
    (tmp_path / "masks").rename(tmp_path / "grey")
    coloured = np.repeat(PHANTOM.pixels[..., None], 3, 3)
    run(write_frames(tmp_path / "coloured", coloured), "--box", BOX)
    for name, found in read_labels(tmp_path / "masks").items():
        np.testing.assert_array_equal(found, grey[name])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pick_up", PICK_UPS)
def test_every_policy_and_pick_up_runs(
    policy: str, pick_up: str, run: Run, frames: Path, telling: None, tmp_path: Path
) -> None:
    rules = ("--memory", policy, "--pick-up", pick_up, "--min-confidence", "0")
    report = run(frames, "--point", "0,3,3", *rules)
    assert (report["options"]["memory"], report["options"]["pick_up"]) == (policy, pick_up)
    assert len(read_labels(tmp_path / "masks")) == SHAPE[0]


@pytest.mark.parametrize("kind", ["clip", "frames"])
def test_a_preview_shows_frames_with_contours(
    kind: str, run: Run, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run(request.getfixturevalue(kind), "--box", BOX, "--preview", str(tmp_path / "p.png"))
    with Image.open(tmp_path / "p.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert (drawn[:, MARGIN] == 255).all(-1).sum() > TILE / 2, "the prompted frame is framed"
    for quarter in np.array_split((drawn == COLOURS[0]).all(-1), 4, axis=1):
        assert quarter.any(), "frames lie side by side, each with a contour"


def test_of_a_long_video_a_few_frames_are_kept_evenly_from_start_to_end() -> None:
    sample = Sample()
    for index in range(3, 1000):
        sample.offer(index, np.zeros((2, 2), np.uint8), {})
        assert min(index - 2, KEPT // 2) <= len(sample._kept) <= KEPT
    kept = list(sample._kept)
    sample.offer(1001, np.zeros((2, 2), np.uint8), {}, is_prompted=True)
    for index in range(1002, 9000):
        sample.offer(index, np.zeros((2, 2), np.uint8), {})
    assert list(sample._prompted) == [1001]
    assert len(set(np.diff(kept))) == 1
    assert kept[0] < 100 and kept[-1] > 900


def test_a_prompt_beyond_the_end_is_refused(
    run: Run, frames: Path, clip: Path, telling: None, tmp_path: Path
) -> None:
    for source in (frames, clip):
        with pytest.raises(PromptError, match=r"no frame 6: .* has 6"):
            run(source, "--point", "6,3,3", "--preview", str(tmp_path / "p.png"))
        assert not (tmp_path / "masks").exists()
    assert not (tmp_path / "p.png").exists()


def test_a_prompt_before_the_first_frame_is_refused(
    run: Run, frames: Path, telling: None, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match="-1"):
        run(frames, "--point=-1,3,3")


def mix(frames: Path) -> None:
    Image.fromarray(np.zeros((*SHAPE[1:], 3), np.uint8)).save(frames / "frame3.png")


def damage(frames: Path) -> None:
    (frames / "frame3.png").write_bytes(b"no image")


def fill_masks(frames: Path) -> None:
    (frames.parent / "masks").mkdir()
    (frames.parent / "masks" / "000001.png").write_bytes(b"older")


def nothing(frames: Path) -> None:
    pass


Change = Callable[[Path], None]
BAD: dict[str, tuple[type[Sam2Error], str, Change, tuple[str, ...]]] = {
    "mixed channels": (InputError, "mixes grey and colour", mix, ()),
    "damaged": (InputError, r"frame3\.png cannot be read", damage, ()),
    "folder of the masks": (InputError, "masks is not empty", fill_masks, ()),
    "capacity": (InputError, "found capacity 9", nothing, ("--capacity", "9")),
    "preview": (InputError, "no suffix a preview", nothing, ("--preview", "p.bmp")),
    "window": (InputError, "found the window", nothing, ("--window", "kidney")),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    case: str, run: Run, frames: Path, telling: None, tmp_path: Path
) -> None:
    error, why, change, words = BAD[case]
    change(frames)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=why) as refused:
        run(frames, "--box", BOX, *words)
    assert refused.value.exit_code == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_a_frame_of_another_size_is_refused_and_the_masks_before_it_stay(
    run: Run, frames: Path, telling: None, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(frames / "frame3.png")
    with pytest.raises(InputError, match=r"frame 3 is \(30, 40\)"):
        run(frames, "--box", BOX)
    assert list(read_labels(tmp_path / "masks")) == ["000001.png", "000002.png"]


def test_what_fails_half_way_leaves_whole_masks_only_and_says_so(
    run: Run,
    frames: Path,
    telling: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write = runtime.jobs.video.write_label_image

    def fail(folder: Path, name: str, labels: np.ndarray) -> None:
        if name == "000003":
            raise OutOfMemory("full")
        write(folder, name, labels)

    monkeypatch.setattr(runtime.jobs.video, "write_label_image", fail)
    with pytest.raises(OutOfMemory):
        run(frames, "--box", BOX)
    assert list(read_labels(tmp_path / "masks")) == ["000001.png", "000002.png"]
    assert "masks holds 2 masks and not all; empty it" in caplog.messages[-1]


def test_a_video_that_is_not_there_is_missed_before_anything_is_written(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(MissingInput, match=r"absent\.mp4 is not a file"):
        run(tmp_path / "absent.mp4", "--box", BOX)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [("--z-range", "0,2"), ("--order", "similar"), ("--preset", "medsam2_recist")]
)
def test_options_of_another_kind_are_usage_errors(
    words: tuple[str, ...], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["-i", str(clip), "-o", str(tmp_path / "masks"), "--box", BOX, *words])
    assert left.value.code == 2
    assert "the input is taken as video" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()
