"""What one worker does with one study, from files to files, on a model that computes nothing."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from runtime import Volume, read_volume, write_mask
from runtime.bundle.bundle import open_bundle
from runtime.cohort.outcome import StudyTask, failure
from runtime.cohort.settings import Settings
from runtime.cohort.study import FILE, StudyPrompts
from runtime.cohort.worker import StudyWorker
from runtime.errors import BundleError, MissingPackage, OutOfMemory, PromptError, Sam2Error
from runtime.io.dicom import read_segmentation
from runtime.io.dicom.codes import ABNORMAL
from runtime.jobs.job import Job
from runtime.measure.phantom import make_phantom
from runtime.memory import MemoryRules
from tests.dicoms import save_series
from tests.fakes import SEEING, fake_model

PHANTOM = make_phantom((4, 48, 64), seed=3)
VOLUME = Volume(PHANTOM.pixels, (2.0, 0.8, 0.8))
BOX = StudyPrompts.of_rows([("4", "box", "1,10,30,10,30")])


def with_frame_of_reference(dataset: Dataset, index: int) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a cohort whose only study is study.nrrd."""
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    write_mask(tmp_path / "study.nrrd", PHANTOM.pixels, VOLUME)
    return Settings(Job(tmp_path, tmp_path, [], MemoryRules()), open_bundle().fingerprint)


def task(folder: Path, asked: StudyPrompts = BOX, known_key: str | None = None) -> StudyTask:
    return StudyTask(1, "a/study", folder / "study.nrrd", asked, known_key)


def test_a_study_becomes_a_mask_a_preview_and_a_row(settings: Settings, tmp_path: Path) -> None:
    outcome = StudyWorker(settings, tmp_path / "out").do(task(tmp_path))
    assert (outcome.exit_code, outcome.message) == (0, "")
    mask = tmp_path / "out" / "masks" / "a" / "study.nii.gz"
    labels = read_volume(mask).array
    assert (tmp_path / "out" / "previews" / "a" / "study.jpg").is_file()
    assert outcome.told["mask_bytes"] == mask.stat().st_size
    (entry,) = outcome.told["objects"]
    assert entry["id"] == 4
    assert entry["voxels"] == (labels == 4).sum()
    assert entry["volume_ml"] == pytest.approx((labels == 4).sum() * 2 * 0.8 * 0.8 / 1000, abs=1e-3)
    assert '"box": {"y": [10.0, 30.0]' in entry["prompt"]
    assert outcome.told["ms"].keys() >= {"hash", "read", "prompt", "propagate", "write", "total"}


def test_rows_and_files_say_what_objects_are(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("highdicom")
    save_series(tmp_path / "series", with_frame_of_reference)
    settings = replace(settings, format="dicom-seg", draws=False)
    liver, box = "SCT:10200004:Liver", "1,1,4,1,4"
    (tmp_path / "p.json").write_text(
        f'{{"objects": [{{"id": 4, "code": "{liver}", "prompts": '
        '[{"slice": 1, "box": {"y": [1, 4], "x": [1, 4]}}]}]}'
    )
    worker = StudyWorker(settings, tmp_path / "out")
    for asked in (
        StudyPrompts.of_rows([("4", "box", box), ("4", "code", liver)]),
        StudyPrompts(FILE, str(tmp_path / "p.json")),
    ):
        outcome = worker.do(StudyTask(1, "s", tmp_path / "series", asked, None))
        assert outcome.message == ""
        (entry,) = outcome.told["objects"]
        assert entry["code"] == liver and entry["category"] == str(ABNORMAL)
        volume = read_volume(tmp_path / "series")
        there = read_segmentation(tmp_path / "out" / "masks" / "s.dcm", like=volume)
        assert there.names == {1: "Liver 4"}


def test_no_preview_where_none_is_wanted(settings: Settings, tmp_path: Path) -> None:
    StudyWorker(replace(settings, draws=False), tmp_path / "out").do(task(tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


def test_what_is_known_is_not_computed(settings: Settings, tmp_path: Path) -> None:
    worker = StudyWorker(settings, tmp_path / "out")
    first = worker.do(task(tmp_path))
    mask = tmp_path / "out" / "masks" / "a" / "study.nii.gz"
    mask.unlink()
    again = worker.do(task(tmp_path, known_key=first.key))
    assert again.is_unchanged and not mask.exists()
    assert worker.do(task(tmp_path, known_key="another")).key == first.key
    assert mask.exists()


def test_a_key_is_of_content_prompt_bundle_and_settings(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "study.nrrd"
    others = [
        settings.key_of(path, StudyPrompts.of_rows([("4", "box", "1,10,30,10,31")])),
        replace(settings, fingerprint="0" * 64).key_of(path, BOX),
        replace(settings, format="nrrd").key_of(path, BOX),
        replace(settings, job=replace(settings.job, window="lung")).key_of(path, BOX),
    ]
    key = settings.key_of(path, BOX)
    faster = replace(settings.job, threads=3, hint="throughput", max_memory=1 << 30)
    assert replace(settings, job=faster).key_of(path, BOX) == key
    path.write_bytes(path.read_bytes() + b"\n")
    assert len({key, settings.key_of(path, BOX), *others}) == 6


def test_labels_are_asked_for(settings: Settings, tmp_path: Path) -> None:
    drawn = np.zeros(VOLUME.shape, np.uint8)
    drawn[2, 10:20, 10:20] = 7
    write_mask(tmp_path / "study.labels.nrrd", drawn, VOLUME)
    asked = StudyPrompts("labels", str(tmp_path / "study.labels.nrrd"))
    (entry,) = StudyWorker(settings, tmp_path / "out").do(task(tmp_path, asked)).told["objects"]
    assert (entry["id"], entry["prompt"][:11]) == (7, '[{"slice": ')


@pytest.mark.parametrize(
    ("asked", "code", "why"),
    [
        (StudyPrompts("nothing"), 3, "no prompts"),
        (StudyPrompts.of_rows([("1", "box", "9,1,2,1,2")]), 3, "no slice 9"),
        (StudyPrompts("file", "nowhere.json"), 3, "no prompts at"),
    ],
)
def test_what_is_wrong_is_an_outcome(
    asked: StudyPrompts, code: int, why: str, settings: Settings, tmp_path: Path
) -> None:
    outcome = StudyWorker(settings, tmp_path / "out").do(task(tmp_path, asked))
    assert outcome.exit_code == code
    assert why in outcome.message
    assert not list(tmp_path.glob("out/masks/**/*.nii.gz"))


def test_another_bundle_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not the bundle"):
        StudyWorker(replace(settings, fingerprint="0" * 64), tmp_path / "out")


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "is_halting"),
    [
        (PromptError("x"), 3, False),
        (MemoryError(), 6, False),
        (RuntimeError("std::bad_alloc"), 6, False),
        (OutOfMemory("x"), 6, False),
        (FileNotFoundError(errno.ENOENT, "x"), 3, False),
        (ModuleNotFoundError("No module named 'highdicom'", name="highdicom"), 5, False),
        (MissingPackage("x"), 5, False),
        (ZeroDivisionError("x"), 1, False),
        (chained(Sam2Error("x"), OSError(errno.ENOSPC, "x")), 1, True),
        (chained(Sam2Error("x"), OSError(errno.EACCES, "x")), 1, False),
    ],
)
def test_exit_codes_are_those_of_segment(error: Exception, code: int, is_halting: bool) -> None:
    outcome = failure(7, error)
    assert (outcome.number, outcome.exit_code, outcome.is_halting) == (7, code, is_halting)
