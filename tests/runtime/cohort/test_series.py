"""Which series of a folder a cohort segments, and everything afterwards shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.bundle import open_bundle
from runtime.cohort.export import opened
from runtime.cohort.review import Review
from runtime.cohort.settings import Settings
from runtime.cohort.study import StudyPrompts
from runtime.commands.cohort import main
from runtime.jobs import Job
from runtime.memory import MemoryRules
from tests.dicoms import OTHER_SERIES, save_series
from tests.fakes import SEEING, fake_model
from tests.runtime.cohort.inline import work_inline

ROWS = StudyPrompts.of_rows([("1", "box", "1,0,3,0,3")])
QUERY = {"SeriesNumber": "3"}


def test_choices_are_of_what_they_are_about(tmp_path: Path) -> None:
    """A cohort may hold DICOM and NIfTI: that of a series is not for files, that of an affine not for DICOM."""
    job = Job(tmp_path, tmp_path, [], MemoryRules(), series=QUERY, affine="qform")
    settings = Settings(job, open_bundle().fingerprint)
    for path, series, affine in (
        (tmp_path, QUERY, None),
        (tmp_path / "frames.dcm", QUERY, None),
        (tmp_path / "ct.nii.gz", None, "qform"),
        (tmp_path / "ct.nrrd", None, None),
    ):
        own = settings.job_of("a", path, ROWS, tmp_path / "out")
        assert (own.series, own.affine) == (series, affine)


def test_a_cohort_of_one_series_of_several_is_reviewed_as_it_was_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work_inline(monkeypatch)
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    studies, out = tmp_path / "studies", tmp_path / "out"
    studies.mkdir()
    save_series(studies / "p")
    wanted = save_series(
        *(studies / "p", lambda dataset, index: setattr(dataset, "SeriesNumber", 3)),
        **{"series": OTHER_SERIES, "depth": 3, "names": ["x", "y", "z"]},
    )
    prompts = [{"slice": 1, "box": {"y": [1, 4], "x": [1, 5]}}]
    (studies / "p.json").write_text(json.dumps({"objects": [{"id": 1, "prompts": prompts}]}))
    command = ["-i", str(studies), "-o", str(out), "--no-previews"]
    main(command)
    assert json.loads(capsys.readouterr().out)["studies"]["failed"] == 1

    main([*command, "--series", "SeriesNumber=3"])
    assert json.loads(capsys.readouterr().out)["studies"] == {"done": 1, "failed": 0, "waiting": 0}
    review = Review(out)
    (study,) = review.studies()
    with opened(review, study) as (_, volume):
        assert np.array_equal(volume.array, wanted)
