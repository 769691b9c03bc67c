"""The command on a set of images: a label image for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime.jobs.images
import runtime.predictors.search
from runtime.commands.segment import main
from runtime.errors import InputError, MissingInput, OutOfMemory, PromptError, Sam2Error
from runtime.io.pictures.images import read_images
from runtime.io.pictures.video import read_video
from runtime.io.window import parse_window
from runtime.jobs import kind_of
from runtime.jobs.images import eight_bits
from runtime.measure.phantom import Phantom, make_phantom
from runtime.memory import MemoryRules
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.model import load
from runtime.predictors import FlowPredictor
from runtime.preview.preview import COLOURS
from runtime.prompts.prompts import Box
from tests.dicoms import save_series
from tests.reports import confidences, memories, read_report

NAMES = ("scan1", "scan2", "scan10", "scan11")
SIZES = ((80, 96), (72, 90), (96, 96), (88, 64))
PHANTOMS: list[Phantom] = [make_phantom((5, *size), seed) for seed, size in enumerate(SIZES, 1)]
PICTURES = [phantom.pixels[2] for phantom in PHANTOMS]
TRUTHS = [phantom.labels[2] for phantom in PHANTOMS]
PROMPTED = 1

Run = Callable[..., dict[str, Any]]


def as_box(image: int, object_id: int = 1) -> str:
    box = PHANTOMS[image].box(2, object_id)
    return ",".join(str(v) for v in (image, *box.y, *box.x))


BOX = as_box(PROMPTED)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def write_images(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for name, image in zip(NAMES, images, strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def read_labels(folder: Path) -> dict[str, np.ndarray]:
    labels = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"
            labels[path.name] = np.asarray(image)
    return labels


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", PICTURES)


@pytest.fixture
def run(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process; returns the one JSON line that is all of stdout."""

    def call(*arguments: str, source: Path = images) -> dict[str, Any]:
        main(
            [
                "-i",
                str(source),
                "-o",
                str(tmp_path / "masks"),
                "--threads",
                "1",
                "--report-memory",
                *arguments,
            ]
        )
        (line,) = capsys.readouterr().out.splitlines()
        return read_report(line)

    return call


def test_each_image_gets_a_mask_of_its_own_size(run: Run, tmp_path: Path) -> None:
    run("--box", BOX)
    labels = read_labels(tmp_path / "masks")
    assert set(labels) == {f"{name}.png" for name in NAMES}
    for name, truth in zip(NAMES, TRUTHS, strict=True):
        found = labels[f"{name}.png"]
        assert found.dtype == np.uint8
        assert found.shape == truth.shape
        assert set(np.unique(found)) == {0, 1}
        assert dice(found == 1, truth == 1) > 0.8


def test_the_report_tells_what_was_found(run: Run, images: Path, tmp_path: Path) -> None:
    report = run("--box", BOX)
    labels = read_labels(tmp_path / "masks")
    assert report["outputs"]["mask"] == str(tmp_path / "masks")
    assert report["outputs"]["preview"] is None
    assert report["input"]["names"] == list(NAMES)
    assert [report["options"][name] for name in ("memory", "pick_up", "order")] == [
        "fifo",
        "all",
        "given",
    ]
    (found,) = report["objects"]
    assert found["id"] == 1
    assert [row["voxels"] for row in found["slices"]] == [
        int((labels[f"{name}.png"] == 1).sum()) for name in NAMES
    ]
    assert list(confidences(found)) == [0, 1, 2, 3]
    assert all(0 < value <= 1 for value in confidences(found).values())
    assert memories(found) == {0: [1], 2: [1, 0], 3: [1, 0, 2]}


def test_images_to_review_are_named_the_least_confident_first(run: Run) -> None:
    report = run("--box", BOX)
    confidence = dict(zip(NAMES, confidences(report["objects"][0]).values(), strict=True))
    del confidence[NAMES[PROMPTED]]
    wanted = sorted(confidence.items(), key=lambda each: each[1])
    assert [(NAMES[row["slice"]], row["confidence"]) for row in report["review"]] == wanted


def test_the_result_is_that_of_the_predictor(run: Run, tmp_path: Path) -> None:
    run("--box", BOX, "--memory", "self_sorting", "--order", "similar")
    predictor = FlowPredictor(load(threads=1), MemoryRules(policy="self_sorting"))
    predictor.set_images(PICTURES)
    box = PHANTOMS[PROMPTED].box(2, 1)
    predictor.add(Box(slice=PROMPTED, y=box.y, x=box.x))
    result = predictor.propagate("similar")
    labels = read_labels(tmp_path / "masks")
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(labels[f"{name}.png"], result.labels_of(i))


def test_each_box_is_an_object_wherever_it_lies(run: Run, tmp_path: Path) -> None:
    report = run("--box", BOX, "--box", as_box(2, 2))
    assert [found["id"] for found in report["objects"]] == [1, 2]
    labels = read_labels(tmp_path / "masks")
    assert dice(labels["scan2.png"] == 1, TRUTHS[1] == 1) > 0.8
    assert dice(labels["scan10.png"] == 2, TRUTHS[2] == 2) > 0.8


def test_an_object_may_be_prompted_on_several_images(
    run: Run, telling: None, tmp_path: Path
) -> None:
    (found,) = run("--point", "0,3,3", "--point", "2,5,5", "--point", "2,1,1,-")["objects"]
    assert memories(found) == {1: [0, 2], 3: [0, 2, 1]}
    assert len(read_labels(tmp_path / "masks")) == len(NAMES)


def test_colour_images_are_segmented_too(run: Run, tmp_path: Path) -> None:
    tint = np.array([1.0, 0.9, 0.6])
    coloured = [(image[..., None] * tint).astype(np.uint8) for image in PICTURES]
    run("--box", BOX, source=write_images(tmp_path / "coloured", coloured))
    labels = read_labels(tmp_path / "masks")
    for name, truth in zip(NAMES, TRUTHS, strict=True):
        assert dice(labels[f"{name}.png"] == 1, truth == 1) > 0.6


def test_deep_images_go_through_the_window_one_by_one() -> None:
    """They need not share a scale."""
    deep = PICTURES[0].astype(np.uint16) * 3 + 10
    window = parse_window("percentile")
    once, louder = eight_bits("a", deep, window), eight_bits("b", deep * 50, window)
    assert once.dtype == np.uint8
    assert once.shape == deep.shape
    assert (int(once.min()), int(once.max())) == (0, 255)
    np.testing.assert_array_equal(once, louder)
    np.testing.assert_array_equal(eight_bits("a", PICTURES[0], parse_window("auto")), PICTURES[0])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pick_up", PICK_UPS)
def test_every_policy_and_pick_up_runs(
    policy: str, pick_up: str, run: Run, telling: None, tmp_path: Path
) -> None:
    rules = ("--memory", policy, "--pick-up", pick_up, "--min-confidence", "0")
    report = run("--point", "0,3,3", *rules)
    assert (report["options"]["memory"], report["options"]["pick_up"]) == (policy, pick_up)
    (found,) = report["objects"]
    assert memories(found)[3][0] == 0
    assert len(memories(found)[3]) > 1, "something beside the prompted image is remembered"
    assert len(read_labels(tmp_path / "masks")) == len(NAMES)


def test_similar_images_come_first_if_asked_for(run: Run, telling: None, tmp_path: Path) -> None:
    greys = [100, 250, 110, 180]
    flat = [np.full((16, 16), grey, np.uint8) for grey in greys]
    source = write_images(tmp_path / "flat", flat)
    report = run("--point", "0,3,3", "--order", "similar", source=source)
    assert report["options"]["order"] == "similar"
    assert memories(report["objects"][0]) == {1: [0, 2, 3], 2: [0], 3: [0, 2]}


def test_a_preview_shows_the_images_with_contours(run: Run, tmp_path: Path) -> None:
    report = run("--box", BOX, "--preview", str(tmp_path / "p.png"))
    assert report["outputs"]["preview"] == str(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    outlined = (drawn == COLOURS[0]).all(-1)
    quarters = np.array_split(outlined, len(NAMES), axis=1)
    assert all(quarter.any() for quarter in quarters), "all four images are outlined"
    assert "p.png" not in {path.name for path in (tmp_path / "masks").iterdir()}


def test_a_mask_is_written_once_when_all_objects_are_in_it(
    run: Run, telling: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = runtime.jobs.images.write_label_image, []

    def watched(folder: Path, name: str, labels: np.ndarray) -> None:
        written.append(name)
        write(folder, name, labels)

    monkeypatch.setattr(runtime.jobs.images, "write_label_image", watched)
    run("--box", BOX, "--box", as_box(2))
    assert sorted(written) == sorted(NAMES)


def test_what_fails_half_way_leaves_the_masks_made_before(
    run: Run, telling: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track_step = runtime.predictors.search.track_step
    left = [None]

    def fail(*args: Any, **kwargs: Any) -> Any:
        if not left:
            raise OutOfMemory("full")
        left.pop()
        return track_step(*args, **kwargs)

    monkeypatch.setattr(runtime.predictors.search, "track_step", fail)
    with pytest.raises(OutOfMemory):
        run("--point", "2,3,3")
    assert set(read_labels(tmp_path / "masks")) == {"scan10.png", "scan1.png"}


def mix(images: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(images / "scan3.png")


def damage(images: Path) -> None:
    (images / "scan3.png").write_bytes(b"no image")


def nothing(images: Path) -> None:
    pass


Change = Callable[[Path], None]
BAD: dict[str, tuple[type[Sam2Error], str, Change, tuple[str, ...]]] = {
    "beyond the last": (
        PromptError,
        "no image 4: .* holds 4, 0 to 3",
        nothing,
        ("--box", "4,1,9,1,9"),
    ),
    "before the first": (PromptError, "no image -1", nothing, ("--box=-1,1,9,1,9",)),
    "one of two": (PromptError, "no image 7", nothing, ("--box", BOX, "--box", "7,1,9,1,9")),
    "outside its image": (PromptError, "box x", nothing, ("--box", "3,1,9,60,65")),
    "mixed channels": (InputError, "wanted all of one kind", mix, ("--box", BOX)),
    "damaged": (InputError, r"scan3\.png cannot be read", damage, ("--box", BOX)),
    "window": (InputError, "found the window", nothing, ("--box", BOX, "--window", "kidney")),
    "capacity": (InputError, "found capacity 9", nothing, ("--box", BOX, "--capacity", "9")),
    "preview": (InputError, "no suffix a preview", nothing, ("--box", BOX, "--preview", "p.bmp")),
    "preview over an image": (
        InputError,
        "among the images of the input",
        nothing,
        ("--box", BOX, "--preview", "{images}/scan3.png"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    case: str, run: Run, images: Path, tmp_path: Path, telling: None
) -> None:
    error, why, change, words = BAD[case]
    change(images)
    with pytest.raises(error, match=why) as refused:
        run(*(word.format(images=images) for word in words))
    assert refused.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_masks_are_not_written_among_other_files(run: Run, tmp_path: Path, telling: None) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "scan1.png").write_bytes(b"older")
    with pytest.raises(InputError, match="masks is not empty"):
        run("--box", BOX)
    assert (tmp_path / "masks" / "scan1.png").read_bytes() == b"older"
    assert len(list((tmp_path / "masks").iterdir())) == 1


def test_an_interrupt_says_that_masks_are_missing(
    run: Run,
    tmp_path: Path,
    telling: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write, written = runtime.jobs.images.write_label_image, []

    def interrupted(*what: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(write(*what))

    monkeypatch.setattr(runtime.jobs.images, "write_label_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--box", BOX)
    assert len(read_labels(tmp_path / "masks")) == 1
    assert "masks holds 1 mask and not all; empty it" in caplog.messages[-1]


def test_a_folder_that_is_not_there_is_missed(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="absent is not a folder"):
        run("--box", BOX, "--as", "images", source=tmp_path / "absent")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--z-range", "0,2"), "--z-range is for a volume; the input is taken as images"),
        (("--series", "1.2"), "--series is for a volume"),
        (("--preset", "medsam2_lesion"), "--preset is for a volume"),
        (("--fuse", "mean"), "--fuse is for a volume"),
        (("--as", "video", "--order", "similar"), "--order is for images; the input is taken as v"),
        (
            ("--as", "volume", "--order", "similar"),
            "--order is for images; the input is taken as v",
        ),
        (("--order", "random"), "invalid choice"),
        (("--as", "slides"), "invalid choice"),
    ],
)
def test_options_of_another_kind_are_usage_errors(
    words: tuple[str, ...],
    why: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["-i", str(images), "-o", str(tmp_path / "masks"), "--box", BOX, *words])
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert why in shown.err
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("name", "inside", "kind"),
    [
        ("clip.mp4", (), "video"),
        ("CLIP.AVI", (), "video"),
        ("ct.nii.gz", (), "volume"),
        ("case.npz", (), "volume"),
        ("scan.png", (), "volume"),
        ("folder", ("a.png", "notes.txt"), "images"),
        ("folder", ("a.TIFF",), "images"),
        ("folder", ("a.dcm", "b.dcm"), "volume"),
        ("folder", (), "volume"),
    ],
)
def test_the_kind_of_an_input_goes_by_its_name_or_what_it_holds(
    name: str, inside: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    for each in inside:
        (tmp_path / name / each).touch()
    assert kind_of(tmp_path / name) == kind


def test_a_series_with_a_thumbnail_is_not_taken_for_a_set_of_images(tmp_path: Path) -> None:
    save_series(tmp_path)
    Image.new("L", (4, 3)).save(tmp_path / "thumbnail.png")
    with pytest.raises(InputError, match="--as volume"):
        kind_of(tmp_path)
    (tmp_path / "thumbnail.png").unlink()
    assert kind_of(tmp_path) == "volume"


def test_a_folder_that_may_not_be_looked_into_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    for look in (kind_of, read_images, lambda path: next(read_video(path))):
        with pytest.raises(InputError, match="cannot be read"):
            look(tmp_path)


def test_an_input_that_is_not_there_is_taken_as_a_volume(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "absent") == "volume"


@pytest.mark.parametrize("name", ["._a.png", "previews.png/"])
def test_what_would_not_be_read_as_an_image_makes_no_set_of_images(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "001.dcm").touch()
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == "volume"
