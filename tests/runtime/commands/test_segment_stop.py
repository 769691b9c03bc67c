"""The command where objects end: what it visits, writes and reports, by its flags or by its bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime.jobs.volume
from runtime.bundle.defaults import Defaults
from runtime.commands.segment import main
from runtime.errors import InputError, PromptError
from runtime.io import Volume, read_volume, write_mask
from runtime.jobs import Job
from runtime.memory import MemoryRules
from runtime.model import Model
from runtime.predictors.clean import CLEANINGS
from runtime.predictors.stop import StopRule
from runtime.process.subcommands import USAGE_ERROR
from tests.fakes import AS_SURE_AS_GREY, fake_model
from tests.reports import read_report

SIDE = 16
WORTH = [0.0] * 6 + [0.9] * 4 + [0.3] * 2 + [0.0] * 8
GREY = np.rint(250 * np.array(WORTH)).astype(np.uint8)
PIXELS = np.broadcast_to(GREY[:, None, None], (len(GREY), SIDE, SIDE)).copy()
MEASURED = Defaults(
    memory={"policy": "confident_and_latest", "pick_up": "all"}, stop={"below": 0.5, "after": 2}
)

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on a volume, or on its slices as frames or images, with a bundle of some defaults."""
    write_mask(tmp_path / "study.nrrd", PIXELS, Volume.from_array(PIXELS))
    (tmp_path / "frames").mkdir()
    for i, plane in enumerate(PIXELS):
        Image.fromarray(plane).save(tmp_path / "frames" / f"{i:02d}.png")

    calls = count()

    def call(kind: str, *words: str, defaults: Defaults | None = None) -> dict[str, Any]:
        def load(job: Job) -> Model:
            made, _ = fake_model(AS_SURE_AS_GREY)
            return Model(made.numbers, made.backend, made.constants, defaults=defaults)

        monkeypatch.setattr(Job, "load", load)
        source, mask = ("study.nrrd", "mask.nrrd")
        if kind != "volume":
            source, mask = "frames", f"masks{next(calls)}"
        files = ["-i", str(tmp_path / source), "-o", str(tmp_path / mask), "--as", kind]
        main([*files, "--window", "none", "--box", "7,2,12,2,12", *words])
        return read_report(capsys.readouterr().out)

    return call


def visited(report: dict[str, Any]) -> list[int]:
    (found,) = report["objects"]
    return [row["slice"] for row in found["slices"]]


def ends(report: dict[str, Any]) -> list[tuple[int, int, str]]:
    (found,) = report["objects"]
    return [(end["direction"], end["slice"], end["reason"]) for end in found["ends"]]


def test_without_a_word_every_slice_is_visited(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "runtime"):
        report = run("volume")
    assert visited(report) == list(range(len(WORTH)))
    assert report["options"]["stop"] is None
    assert ends(report) == [(1, len(WORTH) - 1, "input"), (-1, 0, "input")]
    assert sum("calibrate BUNDLE --defaults" in line for line in caplog.messages) == 1


def test_a_volume_is_left_where_its_object_ends(run: Run, tmp_path: Path) -> None:
    report = run("volume", "--stop-below", "0.5", "--stop-after", "2")
    assert visited(report) == list(range(4, 12))
    assert ends(report) == [(1, 11, "unsure"), (-1, 4, "absent")]
    assert report["options"]["stop"] == {"below": 0.5, "after": 2}
    held = read_volume(tmp_path / "mask.nrrd").array.any((1, 2))
    assert held[7] and not held[12:].any() and not held[:4].any()
    report = run("volume", "--stop-below", "0")
    assert report["options"]["stop"] == {"below": 0.0, "after": 3}
    assert ends(report) == [(1, 14, "absent"), (-1, 3, "absent")]
    report = run("volume", "--stop-below", "0", "--z-range", "5,9")
    assert ends(report) == [(1, 8, "range"), (-1, 5, "range")]


def test_a_video_is_left_too(run: Run) -> None:
    report = run("video", "--stop-below", "0.5", "--stop-after", "3")
    assert visited(report) == list(range(7, 13))
    assert ends(report) == [(1, 12, "unsure")]
    report = run("video", defaults=MEASURED)
    assert ends(report) == [(1, len(WORTH) - 1, "input")], "what was measured on volumes"
    assert report["options"]["stop"] is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("images", ("--stop-below", "0.5")),
        ("volume", ("--zoom", "near")),
        ("images", ("--stop-below", "none")),
        ("volume", ("--stop-after", "2")),
        ("volume", ("--stop-below", "none", "--stop-after", "2")),
        ("volume", ("--stop-below", "auto", "--stop-after", "2")),
        ("volume", ("--stop-below", "half")),
        ("volume", ("--stop-below", "0.5", "--stop-after", "some")),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(kind: str, words: tuple[str, ...], run: Run) -> None:
    with pytest.raises(SystemExit) as left:
        run(kind, *words)
    assert left.value.code == USAGE_ERROR


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--stop-below", "1.5"), "stop_below is 1.5"),
        (("--stop-below", "nan"), "stop_below is nan"),
        (("--zoom", "0.5"), "zoom"),
        (("--zoom", "nan"), "zoom"),
        (("--smooth", "-1"), "smooth is -1"),
        (("--smooth", "nan"), "smooth is nan"),
        (("--smooth", "9"), "smooth is 9"),
        (("--stop-below", "0.5", "--stop-after", "0"), "stop_after is 0"),
    ],
)
def test_what_is_out_of_range_is_refused(words: tuple[str, ...], why: str, run: Run) -> None:
    with pytest.raises(InputError, match=why):
        run("volume", *words)


def test_a_bundle_decides_where_nobody_says(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "runtime"):
        report = run("volume", defaults=MEASURED)
    assert report["options"]["memory"] == "confident_and_latest"
    assert report["options"]["stop"] == MEASURED.stop
    assert visited(report) == list(range(4, 12))
    assert not any("calibrate" in line for line in caplog.messages)
    report = run("volume", "--stop-below", "none", "--memory", "fifo", defaults=MEASURED)
    assert (report["options"]["memory"], report["options"]["stop"]) == ("fifo", None)
    assert visited(report) == list(range(len(WORTH)))
    report = run("volume", "--pick-up", "weighted", defaults=MEASURED)
    assert (report["options"]["memory"], report["options"]["pick_up"]) == ("fifo", "weighted")


@pytest.mark.parametrize("words", [("--preset", "medsam2_lesion"), ("--preset", "medsam2_recist")])
def test_a_preset_does_what_its_script_does(words: tuple[str, ...], run: Run) -> None:
    report = run("volume", *words, defaults=MEASURED)
    assert (report["options"]["memory"], report["options"]["stop"]) == ("fifo", None)
    assert visited(report) == list(range(len(WORTH)))
    assert run("volume", *words, "--stop-below", "0.5")["options"]["stop"] is not None


def test_other_rules_of_memory_hold_beside_a_bundles(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Watched(runtime.jobs.volume.VolumePredictor):
        def __init__(
            self, model: Any, memory: MemoryRules, max_bytes: int | None, **others: Any
        ) -> None:
            seen.append(memory)
            super().__init__(model, memory, max_bytes, **others)

    monkeypatch.setattr(runtime.jobs.volume, "VolumePredictor", Watched)
    run("volume", "--min-confidence", "0.25", defaults=MEASURED)
    assert seen == [MemoryRules(policy="confident_and_latest", min_confidence=0.25)]


@pytest.mark.parametrize("fusion", ["mean", "vote"])
def test_other_axes_are_followed_as_far_as_the_first_one_came(fusion: str, run: Run) -> None:
    report = run("volume", "--fuse", fusion, "--stop-below", "0.5", "--stop-after", "2")
    assert visited(report) == list(range(4, 12))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--box", "7,2,12,2,12"), "do not mix"),
        (("--point", "7,2,12"), "do not mix"),
    ],
)
def test_recist_lines_stand_alone(
    words: tuple[str, ...], why: str, run: Run, tmp_path: Path
) -> None:
    files = ["-i", str(tmp_path / "study.nrrd"), "-o", str(tmp_path / "mask.nrrd")]
    with pytest.raises(InputError, match=why):
        main([*files, "--recist", "7,2,2,2,11", *words])
    with pytest.raises(InputError, match="outside the slice"):
        main([*files, "--recist", "7,2,2,2,110"])
    with pytest.raises(SystemExit):
        main(["-i", str(tmp_path / "frames"), "-o", str(tmp_path / "m"), "--recist", "7,2,2,2,11"])
    assert not (tmp_path / "mask.nrrd").exists()


def test_each_recist_line_is_an_object(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("volume")
    files = ["-i", str(tmp_path / "study.nrrd"), "-o", str(tmp_path / "mask.nrrd")]
    main([*files, "--window", "none", "--recist", "7,6,2,6,11", "--recist", "8,2,3,9,3"])
    report = read_report(capsys.readouterr().out)
    assert [found["id"] for found in report["objects"]] == [1, 2]
    prompted = [
        [row["slice"] for row in found["slices"] if row["is_prompted"]]
        for found in report["objects"]
    ]
    assert prompted == [[7], [8]]
    main([*files, "--window", "none", "--box", "7,1.5,11.5,2,12"])
    alike = read_report(capsys.readouterr().out)
    assert alike["objects"][0]["slices"] == report["objects"][0]["slices"]


@pytest.mark.parametrize("how", [None, *CLEANINGS])
def test_masks_are_cleaned_where_asked_for(how: str | None, run: Run) -> None:
    report = run("volume", *(["--clean", how] if how else []))
    assert report["options"]["clean"] == how
    with pytest.raises(SystemExit):
        run("images", "--clean", "both")


def test_some_slices_are_tracked_and_others_interpolated_where_asked_for(run: Run) -> None:
    every, some = run("volume"), run("volume", "--track-every", "3")
    assert every["options"]["track_every_mm"] is None and every["num_encodings"] == len(GREY)
    assert some["options"]["track_every_mm"] == 3.0 and some["num_encodings"] == 8
    assert visited(some) == visited(every) == [*range(len(GREY))]
    assert ends(some) == ends(every)
    rows = {row["slice"]: row for row in some["objects"][0]["slices"]}
    assert [i for i, row in rows.items() if row["is_prompted"]] == [7]
    alike = run("volume", "--track-every", "1")
    assert alike["objects"] == every["objects"]


def test_what_is_interpolated_ends_where_tracking_does(run: Run) -> None:
    words = ("--stop-below", "0.5", "--stop-after", "1", "--z-range", "3,18")
    report = run("volume", *words, "--track-every", "2")
    assert ends(report) == [(1, 11, "unsure"), (-1, 5, "absent")]
    assert visited(report) == [5, 6, 7, 8, 9, 10, 11]


def test_what_leaves_slices_out_is_asked_of_volumes_and_within_reason(run: Run) -> None:
    for words in (
        ("images",),
        ("volume", "--fuse", "vote"),
        ("volume", "--preset", "medsam2_lesion"),
    ):
        with pytest.raises(SystemExit):
            run(*words, "--track-every", "3")
    with pytest.raises(InputError, match="wanted a number above zero"):
        run("volume", "--track-every", "0")
    with pytest.raises(PromptError, match="slice 7, outside the z-range"):
        run("volume", "--track-every", "3", "--z-range", "10,18")


def test_a_job_is_settled_once() -> None:
    job = Job(Path("in"), Path("out"), [], MemoryRules(), is_memory_chosen=False)
    settled = job.settled("volume", MEASURED)
    assert settled.stop == StopRule(below=0.5, after=2)
    assert settled.memory == MemoryRules(policy="confident_and_latest")
    assert settled.zoom is None
    zoomed = replace(MEASURED, zoom=3.0)
    assert job.settled("volume", zoomed).zoom == 3.0
    assert replace(job, zoom=None).settled("volume", zoomed).zoom is None
    assert job.settled("images", zoomed) == replace(job, stop=None, zoom=None, smooth=0.0)
    assert replace(job, preset="medsam2_lesion").settled("volume", zoomed).zoom is None


@pytest.mark.parametrize("kind", ["volume", "images", "video"])
def test_zoom_is_used_and_reported(kind: str, run: Run) -> None:
    assert run(kind, defaults=replace(MEASURED, zoom=3.0))["options"]["zoom"] == (
        3.0 if kind == "volume" else None
    )
    assert (
        run(kind, "--zoom", "none", defaults=replace(MEASURED, zoom=3.0))["options"]["zoom"] is None
    )
    assert run(kind, "--zoom", "2.5")["options"]["zoom"] == 2.5


@pytest.mark.parametrize("kind", ["volume", "images", "video"])
def test_smoothing_is_used_and_reported(kind: str, run: Run) -> None:
    smooth = replace(MEASURED, smooth=2.0)
    plain = run(kind)
    chosen = run(kind, defaults=smooth)
    assert plain["options"]["smooth"] is None
    assert chosen["options"]["smooth"] == (2.0 if kind == "volume" else None)
    assert run(kind, "--smooth", "none", defaults=smooth)["options"]["smooth"] is None
    asked = run(kind, "--smooth", "2")
    assert asked["options"]["smooth"] == 2.0
    (row,) = (row for row in asked["objects"][0]["slices"] if row["is_prompted"])
    (as_it_is,) = (row for row in plain["objects"][0]["slices"] if row["is_prompted"])
    assert row["voxels"] < as_it_is["voxels"], "corners are rounded"
