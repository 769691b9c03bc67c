"""What `medsam2 cohort` is told reaches every study's job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.bundle import open_bundle
from runtime.commands.cohort import _settings, main
from runtime.commands.cohort_options import parser
from runtime.errors import BackendUnavailable, InputError


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


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--gpus-per-worker", gpus] for gpus in ("nan", "inf", "-1")),
        *(["--time-limit", seconds] for seconds in ("nan", "0")),
        *([f"--{name}", "0"] for name in ("workers", "threads")),
    ],
    ids=" ".join,
)
def test_numbers_that_make_no_workers_are_refused(wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    with pytest.raises(InputError, match=f"found {wrong[0]} {wrong[1]}; wanted"):
        main(["-i", str(tmp_path / "studies"), "-o", str(tmp_path / "out"), *wrong])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ([], (None, 0)),
        (["--address", "auto"], ("auto", 0)),
        (["--gpus-per-worker", "0.5", "--workers", "3"], (None, 2)),
    ],
)
def test_where_workers_are_and_their_gpus_reach_ray(
    told: list[str],
    asked: tuple[str | None, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[1, 8:16, 8:16] = 1
    np.savez(studies / "a.npz", imgs=100 * labels, gts=labels)
    heard: list[tuple[str | None, int]] = []

    def cluster(address: str | None, num_cpus: int, num_gpus: int) -> None:
        heard.append((address, num_gpus))
        raise BackendUnavailable("no cluster")

    monkeypatch.setattr("runtime.commands.cohort.ray_cluster", cluster)
    with pytest.raises(BackendUnavailable, match="no cluster"):
        main(["-i", str(studies), "-o", str(tmp_path / "out"), *told])
    assert heard == [asked]
