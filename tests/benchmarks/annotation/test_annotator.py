"""The command, on a network that finds whatever is bright: its cohort, its sessions, its report and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.annotation import annotator, subject
from benchmarks.annotation.annotator import main
from benchmarks.annotation.figures import QUEUE, SCRATCH, WAYS
from benchmarks.annotation.session_tool import SessionTool
from benchmarks.annotation.subject import NEVER_S, cohort_masks, subjects_of
from benchmarks.phantoms.phantoms import Labelled
from benchmarks.quality.overlap import dice
from runtime.bundle.bundle import open_bundle
from runtime.cohort.settings import Settings
from runtime.errors import InputError, Sam2Error
from runtime.jobs.job import Job
from runtime.memory import MemoryRules
from runtime.serve.session import InteractiveSession
from tests.fakes import AS_SURE_AS_GREY, SEEING, fake_model


def bright(depth: int = 5, size: int = 64, grey: int = 220) -> Labelled:
    """A block of 16 pixels a side, in line with the network's cells, on three of five slices."""
    labels = np.zeros((depth, size, size), np.uint8)
    labels[1:4, 16:32, 16:32] = 1
    return Labelled((labels * grey).astype(np.uint8), labels)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    return Settings(
        Job(Path("in"), Path("out"), [], MemoryRules()), open_bundle().fingerprint, draws=False
    )


def test_a_session_is_a_tool_that_can_be_taken_back() -> None:
    phantom = bright()
    with InteractiveSession(fake_model(SEEING)[0], deadline_s=NEVER_S) as session:
        session.set_image(phantom.pixels[None])
        tool = SessionTool(session)
        assert not tool.mask.any()
        tool.box(2, (16, 32), (16, 32))
        boxed = tool.mask
        assert dice(boxed, phantom.labels == 1) > 0.9
        tool.click((2, 20, 20), False)
        assert len(session.objects) == 2
        tool.undo()
        assert (tool.mask == boxed).all()
        tool.close()
        seeded = SessionTool(session, boxed)
        assert (seeded.mask == boxed).all()


def test_a_cohort_in_this_process_gives_masks_and_a_queue(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "load", lambda job: fake_model(AS_SURE_AS_GREY)[0])
    labels = bright().labels
    dots = (np.indices(labels.shape).sum(0) % 2 * 40).astype(np.uint8)  # what is even is no object
    phantoms = {
        name: Labelled(grey - dots * labels, labels)
        for name, grey in (("sure", 230), ("unsure", 150))
    }
    subjects = [s for name, p in phantoms.items() for s in subjects_of(name, p, 2)]
    assert [(s.study, s.object_id, s.key) for s in subjects] == [("sure", 1, 2), ("unsure", 1, 2)]
    masks, queue = cohort_masks(phantoms, subjects, settings, tmp_path)
    assert [study for study, *_ in queue] == ["unsure", "sure"]
    assert [round(doubt, 2) for *_, doubt in queue] == [0.4, 0.08]  # what 150 and 230 lack to 250
    assert masks.keys() == {("sure", 1), ("unsure", 1)}
    assert masks["sure", 1].shape == (5, 64, 64) and masks["sure", 1].any()


def test_a_study_that_fails_ends_it(settings: Settings, tmp_path: Path) -> None:
    phantom = bright()
    subjects = subjects_of("one", phantom, 1)
    broken = {"one": Labelled(phantom.pixels[:, :, :0], phantom.labels)}
    with pytest.raises(Sam2Error, match="one failed"):
        cohort_masks(broken, subjects, settings, tmp_path)


@pytest.fixture
def report(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], Path]:
    monkeypatch.setattr(annotator, "load", lambda *args: fake_model(SEEING)[0])
    monkeypatch.setattr(subject, "make_volume", lambda seed: bright(grey=220 + seed % 2))
    output, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = ["--phantoms", "2", "--orders", "5", "-o", str(output), "--picture", str(picture)]
    main(words)
    return json.loads(output.read_text()), picture


def test_the_command_tells_every_object_and_draws(report: tuple[dict[str, Any], Path]) -> None:
    told, picture = report
    assert told["fingerprint"] == open_bundle().fingerprint
    assert told["machine"] and told["phantom_seeds"] == [9_000_000, 9_000_001]
    assert told["habits"]["costs"]["box_s"] == 7.0
    assert told["summary"].keys() == {"0.8", "0.9"} and len(told["rows"]) == 2
    for row in told["rows"]:
        assert 0 <= row["review_score"] <= 1
        assert row[SCRATCH]["to 0.9"]["vertices"] == 4 * row[SCRATCH]["to 0.9"]["slices"]
        assert row[QUEUE]["dice_at_first"] > 0.95
    for way in WAYS[1:]:
        assert told["summary"]["0.9"][way]["reached_without_hand"] == 1
        assert told["summary"]["0.9"][way]["prompts"] == 1
    assert told["summary"]["0.9"][QUEUE]["seconds"] == 7 + 3 * 0.5
    with Image.open(picture) as image:
        assert image.width > 1000 and np.asarray(image.convert("L")).std() > 10


@pytest.mark.parametrize(
    "words",
    [
        ["--targets", "0.8,good"],
        ["--targets", "1.5"],
        ["--phantoms", "0"],
        ["--patience", "0"],
        ["--vertex-seconds", "-1"],
        ["--look-seconds", "nan"],
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="found --"):
        main(words)
