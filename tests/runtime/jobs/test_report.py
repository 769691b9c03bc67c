"""One form for volumes, images and videos, as its schema and its page say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from jsonschema import ValidationError
from PIL import Image

import runtime
from runtime import errors
from runtime.commands.segment import main
from runtime.io import Volume, write_mask
from runtime.jobs import Job
from runtime.jobs.notices import CODES
from runtime.measure.phantom import make_phantom
from runtime.process.subcommands import USAGE_ERROR
from tests.fakes import TELLING, fake_model
from tests.reports import codes, read_report, validator

ROOT = Path(__file__).parents[3]
PHANTOM = make_phantom((4, 48, 64), seed=3)
KINDS = ("volume", "images", "video")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on the fake model, on the same pixels as each of `KINDS`."""
    monkeypatch.setattr(Job, "load", lambda job: fake_model(TELLING)[0])
    write_mask(
        tmp_path / "study.nrrd", PHANTOM.pixels, Volume.from_array(PHANTOM.pixels, (2, 1, 0.5))
    )
    (tmp_path / "images").mkdir()
    for i, plane in enumerate(PHANTOM.pixels):
        Image.fromarray(plane).save(tmp_path / "images" / f"{i}.png")

    calls = count()

    def call(kind: str, *words: str) -> dict[str, Any]:
        source, mask = ("study.nrrd", "mask.nrrd") if kind == "volume" else ("images", "masks")
        mask = f"{next(calls)}{mask}"
        files = ["-i", str(tmp_path / source), "-o", str(tmp_path / mask)]
        main([*files, "--as", kind, "--point", "1,9,9", *words])
        return read_report(capsys.readouterr().out)

    return call


def keys(value: Any) -> Any:
    """Keys all the way down; of a list those of its first entry."""
    if isinstance(value, dict):
        return {key: keys(content) for key, content in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


def test_reports_of_all_kinds_have_one_form(run: Run) -> None:
    reports = {kind: run(kind) for kind in KINDS}
    assert [report["kind"] for report in reports.values()] == list(KINDS)
    for report in reports.values():
        assert report["objects"] and report["review"]
        for name in ("names", "shape", "spacing_mm"):
            report["input"][name] = None  # null for some, but there
        report["warnings"] = []
        for found in report["objects"]:
            assert len(found["ends"]) == {"volume": 2, "images": 0, "video": 1}[report["kind"]]
            found["ends"] = []
    forms = [keys(report) for report in reports.values()]
    assert forms[0] == forms[1] == forms[2]


def test_volumes_are_in_ml_where_the_spacing_is_known_and_null_elsewhere(run: Run) -> None:
    report = run("volume")
    (found,) = report["objects"]
    assert report["input"]["spacing_mm"] == [2, 1, 0.5]
    assert found["volume_ml"] == pytest.approx(found["voxels"] * 2 * 1 * 0.5 / 1000, abs=1e-3)
    for kind in ("images", "video"):
        report = run(kind)
        assert report["input"]["spacing_mm"] is None
        assert report["objects"][0]["volume_ml"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_reported_on_request_only(kind: str, run: Run) -> None:
    rows = run(kind)["objects"][0]["slices"]
    assert all("in_memory" not in row for row in rows)
    rows = run(kind, "--report-memory")["objects"][0]["slices"]
    assert [row["in_memory"] for row in rows][-1] != []


def test_versions_and_options_are_told(run: Run) -> None:
    report = run("volume", "--memory", "confidence", "--z-range", "0,3")
    assert report["versions"]["medsam2-runtime"] == runtime.__version__
    assert report["versions"]["numpy"] == np.__version__
    assert report["options"]["memory"] == "confidence"
    assert report["options"]["z_range"] == [0, 3]
    assert report["model"]["licence"]


def test_warnings_are_in_the_report_and_logged(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(inputs: Any) -> Any:
        out = dict(TELLING["mask_decoder"](inputs))
        out["low_res_masks"] = np.full_like(out["low_res_masks"], -4.0)
        return out

    monkeypatch.setattr(Job, "load", lambda job: fake_model({**TELLING, "mask_decoder": absent})[0])
    for kind in KINDS[:2]:
        report = run(kind)
        assert "empty_object" in codes(report)
        assert report["objects"][0]["extent"] is None
    assert "warning: object 1 was found on no slice" in caplog.text


def test_ct_without_its_air_is_warned_of_end_to_end(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tissue = np.where(PHANTOM.labels > 0, 60, -90) + PHANTOM.pixels // 8 - 10  # Hounsfield units
    study = sitk.GetImageFromArray(tissue.astype(np.int16))
    study.SetSpacing((0.7, 0.7, 12.0))
    sitk.WriteImage(study, str(tmp_path / "ct.nii.gz"))
    words = ["-i", str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "m.nrrd"), "--point", "1,9,9"]
    main(words)
    report = read_report(capsys.readouterr().out)
    assert {"ct_as_mr", "far_apart"} <= set(codes(report))
    assert "--window {abdomen" in caplog.text
    main([*words, "--window", "abdomen"])
    assert "ct_as_mr" not in codes(read_report(capsys.readouterr().out))


def test_the_schema_refuses_what_is_not_said_there(run: Run) -> None:
    report = run("volume")
    for wrong in (
        {**report, "more": 1},
        {**report, "schema_version": 2},
        {key: value for key, value in report.items() if key != "warnings"},
        {**report, "warnings": [{"code": "no such", "message": "", "object": 1, "slices": []}]},
    ):
        with pytest.raises(ValidationError):
            validator().validate(wrong)
    with pytest.raises(ValueError, match="NaN is no JSON"):
        read_report('{"confidence": NaN}')


def test_the_page_and_the_schema_know_every_warning() -> None:
    page = (ROOT / "docs" / "report.md").read_text("utf-8")
    schema: Any = validator().schema
    assert schema["properties"]["warnings"]["items"]["properties"]["code"]["enum"] == list(CODES)
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page
    for entry in schema["properties"]:
        assert f"| `{entry}` |" in page


def test_the_page_knows_every_exit_code() -> None:
    page = (ROOT / "docs" / "report.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| ", page, re.MULTILINE)
    listed = [int(code) for row in rows for code in row.split(",")]
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    raised = {each.exit_code for each in kinds if issubclass(each, errors.Sam2Error)}
    ended = {128 + number for number in (signal.SIGINT, signal.SIGTERM, 1)}
    assert sorted(listed) == sorted({0, USAGE_ERROR} | raised | ended)


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
def test_a_path_that_is_not_utf_8_gives_valid_json(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    study = os.fsdecode(folder + b"/study.nrrd")
    write_mask(study, PHANTOM.pixels[:2], Volume.from_array(PHANTOM.pixels[:2]))
    words = ["-i", study, "-o", os.fsdecode(folder + b"/mask.nrrd"), "--point", "1,9,9"]
    words += ["--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "runtime.segment", *words], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    report = read_report(done.stdout.decode())
    assert report["outputs"]["mask"].endswith("/\\xff/mask.nrrd")
    assert report["input"]["spacing_mm"] is None, "nobody has said it"
