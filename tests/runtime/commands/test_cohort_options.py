"""What `medsam2 cohort` is told reaches every study's job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

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
        *(["--gpus-per-worker", gpus] for gpus in ("nan", "inf", "-1", "1.5")),
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


def studies_of(folder: Path, count: int = 1) -> Path:
    """A folder of so many studies."""
    studies = folder / "studies"
    studies.mkdir()
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[1, 8:16, 8:16] = 1
    for number in range(count):
        np.savez(studies / f"{number}.npz", imgs=100 * labels, gts=labels)
    return studies


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ([], (None, 0)),
        (["--address", "auto"], ("auto", 0)),
        (["--gpus-per-worker", "0.5", "--workers", "3"], (None, 2)),
        (["--gpus-per-worker", "0.4", "--workers", "5"], (None, 3)),
        (["--gpus-per-worker", "2", "--workers", "3"], (None, 6)),
        (["--gpus-per-worker", "0.5"], (None, None)),
    ],
)
def test_where_workers_are_and_their_gpus_reach_ray(
    told: list[str],
    asked: tuple[str | None, int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[str | None, int | None]] = []

    def cluster(address: str | None, num_cpus: int, num_gpus: int | None) -> None:
        heard.append((address, num_gpus))
        raise BackendUnavailable("no cluster")

    monkeypatch.setattr("runtime.commands.cohort.ray_cluster", cluster)
    with pytest.raises(BackendUnavailable, match="no cluster"):
        main(["-i", str(studies_of(tmp_path)), "-o", str(tmp_path / "out"), *told])
    assert heard == [asked]


@pytest.mark.parametrize(
    ("told", "gpus", "workers"),
    [
        (["--threads", "2"], 4, 4),  # no GPU is asked for
        (["--gpus-per-worker", "1"], 4, 4),
        (["--gpus-per-worker", "0.4"], 3, 6),  # two on a GPU, and none on two
        (["--gpus-per-worker", "2"], 5, 2),
        (["--gpus-per-worker", "0.1"], 4, 8),  # as many as there are cores
        (["--gpus-per-worker", "1", "--workers", "6"], 4, 6),
        (["--gpus-per-worker", "1"], 0, "found 0 GPUs; wanted 1 for each worker"),
        (["--gpus-per-worker", "2", "--address", "auto"], 1, "found 1 GPU; wanted 2 for each"),
    ],
)
def test_workers_are_as_many_as_cores_and_gpus_leave_room_for(
    told: list[str],
    gpus: int,
    workers: int | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine of 8 cores and so many GPUs."""
    found: dict[str, float] = {"CPU": 8}
    opened: list[int] = []

    def init(num_gpus: int | None = None, **_: object) -> None:
        found["GPU"] = gpus if num_gpus is None else num_gpus

    def executor(ray: object, settings: object, output: Path, num: int, share: object) -> None:
        opened.append(num)
        raise BackendUnavailable("enough")

    ray = SimpleNamespace(init=init, shutdown=lambda: None, cluster_resources=lambda: found)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr("runtime.commands.cohort.RayExecutor", executor)
    words = ["-i", str(studies_of(tmp_path, 9)), "-o", str(tmp_path / "out"), *told]
    with pytest.raises(BackendUnavailable, match=workers if isinstance(workers, str) else "enough"):
        main(words)
    assert opened == ([] if isinstance(workers, str) else [workers])
