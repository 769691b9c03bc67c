"""What `medsam2 cohort` is told reaches every study's job."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.bundle.bundle import open_bundle
from runtime.commands.cohort import _settings, main
from runtime.commands.cohort_options import parser


def test_how_objects_are_seen_reaches_every_study(tmp_path: Path) -> None:
    places = ["-i", str(tmp_path), "-o", str(tmp_path / "out")]
    sight = ["--zoom", "3", "--smooth", "0.7", "--window", "brain", "--clean", "both"]
    job = _settings(parser().parse_args([*places, *sight]), open_bundle()).job
    assert (job.zoom, job.smooth, job.window, job.clean) == (3.0, 0.7, "brain", "both")


@pytest.mark.parametrize("name", ["rtstruct", "npz"])
def test_what_only_leaves_a_cohort_is_told_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--format", name])
    assert f"medsam2 cohort export OUT -o FOLDER --format {name}" in capsys.readouterr().err


def test_a_series_is_chosen_in_folders_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dicomweb", "http://pacs", "--table", "t.csv", "--series", "Modality=CT"]
    with pytest.raises(SystemExit):
        main([*words, "-o", str(tmp_path / "out")])
    assert "--series is for -i" in capsys.readouterr().err
