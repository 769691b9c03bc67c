"""What `medsam2 cohort` tells its user on the way."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from runtime import Volume
from runtime.cohort.review import Decision, Review
from runtime.commands import cohort
from runtime.commands.cohort import main
from runtime.errors import InputError
from runtime.io.volumes.itk import sitk
from runtime.jobs import Job
from tests.fakes import SEEING, fake_model
from tests.runtime.cohort.inline import work_inline


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command on a study that fails."""
    pytest.importorskip("pyarrow")
    work_inline(monkeypatch)
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "a.nii.gz").write_bytes(b"no gzip")
    prompts = [{"slice": 1, "box": {"y": [1, 4], "x": [1, 5]}}]
    (studies / "a.json").write_text(json.dumps({"objects": [{"prompts": prompts}]}))
    return ["-i", str(studies), "-o", str(tmp_path / "out"), "--no-previews"]


def test_how_much_there_is_to_do_is_told_and_where_nothing_is_how_to_try_again(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtime")
    main(words)
    assert {"1 of 1 study to do", "1 worker at work"} <= {*caplog.messages}
    caplog.clear()
    main(words)
    (said,) = caplog.messages
    assert said.startswith("nothing to do: 0 done, 1 failed, 0 waiting; --retry")


def test_decisions_that_new_settings_undo_are_told_of(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    sitk.WriteImage(
        Volume.from_array(np.full((3, 8, 8), 9, np.uint8)).to_image(),
        str(tmp_path / "studies" / "a.nii.gz"),
    )
    main(words)
    review = Review(tmp_path / "out")
    (study,) = review.studies()
    review.record(Decision("a", 1, "accepted", "me", study["key"]))
    caplog.clear()
    main(words)
    assert not any("decision" in said for said in caplog.messages)
    main([*words, "--clean", "both"])
    (said,) = (said for said in caplog.messages if "decision" in said)
    assert said.startswith("1 decision of review is about a study that is done again, since")
    assert review.latest() == {}
    main(words)  # the same masks as before
    assert review.latest().keys() == {("a", 1)}


def test_a_run_that_ends_early_says_how_far_it_came(
    words: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort, "_work_on", interrupted)
    caplog.set_level(logging.INFO, "runtime")
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert caplog.messages[-1] == (
        "ended early: 0 done, 0 failed, 1 waiting; the same command goes on"
    )


def test_an_output_that_is_a_file_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out is a file; name a folder"):
        main(words)


def test_an_export_before_anything_is_done_says_so(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main(words)
    main(["export", str(tmp_path / "out"), "-o", str(tmp_path / "labelled"), "--all"])
    assert "no study of" in caplog.messages[-1] and "is done yet" in caplog.messages[-1]
