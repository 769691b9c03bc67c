"""What `medsam2 cohort` is told reaches every study's job."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle.bundle import open_bundle
from runtime.commands.cohort import _settings
from runtime.commands.cohort_options import parser


def test_how_objects_are_seen_reaches_every_study(tmp_path: Path) -> None:
    places = ["-i", str(tmp_path), "-o", str(tmp_path / "out")]
    sight = ["--zoom", "3", "--smooth", "0.7", "--window", "brain", "--clean", "both"]
    job = _settings(parser().parse_args([*places, *sight]), open_bundle()).job
    assert (job.zoom, job.smooth, job.window, job.clean) == (3.0, 0.7, "brain", "both")
