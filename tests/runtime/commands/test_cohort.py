"""What `medsam2 cohort` tells its user on the way."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from runtime.commands import cohort
from runtime.commands.cohort import main
from runtime.errors import InputError
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
