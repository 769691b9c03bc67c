"""Series from a real DICOMweb server, Orthanc's, and segmentations back to it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from runtime.commands.cohort import main
from runtime.errors import InputError, Sam2Error
from runtime.io.dicom import read_segmentation, read_series
from runtime.io.dicom.seg import Algorithm, SegmentationOptions, write_segmentation
from runtime.io.dicom.web import TOKEN, DicomWeb
from runtime.measure.phantom import make_phantom
from runtime.process.packages import DISTRIBUTION
from tests.dicoms import OBLIQUE, save_series
from tests.orthanc import Orthanc, orthanc
from tests.runtime.cohort.inline import work_inline

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parents[3]
PHANTOM = make_phantom((6, 64, 64), seed=3)
"""Of which slice 3 is asked for."""


@dataclass(frozen=True)
class Held:
    """A series that the server has, and what is there of it here."""

    study: str
    series: str
    folder: Path

    @property
    def address(self) -> str:
        return f"{self.study}/{self.series}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One that asks for a password, which this process knows."""
    with (
        orthanc(tmp_path_factory.mktemp("orthanc") / "o") as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("NETRC", str(server.netrc()))
        yield server


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    work_inline(monkeypatch)


def send(server: Orthanc, folder: Path, number: int, patient: str = "P7") -> Held:
    """A phantom's series, by STOW; numbers tell studies apart."""
    study, series = f"1.2.826.0.1.70{number}", f"1.2.826.0.1.70{number}.2"

    def edit(dataset: pydicom.Dataset, index: int) -> None:
        grey = PHANTOM.pixels[index].astype(np.int16)
        dataset.Rows, dataset.Columns = grey.shape
        dataset.PixelData = grey.tobytes()
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = study, f"{study}.9"
        dataset.PatientID, dataset.PatientName = patient, "Phantom^One"
        dataset.StudyDate = f"202401{number:02}"

    save_series(folder, edit, depth=len(PHANTOM.pixels), series=series, orientation=OBLIQUE)
    for path in folder.iterdir():
        DicomWeb(server.url).store(path)
    return Held(study, series, folder)


@pytest.fixture(scope="module")
def held(server: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Held:
    return send(server, tmp_path_factory.mktemp("one") / "series", 1)


def box_of(label: int) -> str:
    """About an object of the phantom, as a table has it."""
    y, x = np.nonzero(PHANTOM.labels[3] == label)
    return f"{y.min()},{y.max() + 1},{x.min()},{x.max() + 1}"


def words_for(server: Orthanc, folder: Path, address: str) -> list[str]:
    """The command for two objects of a series."""
    folder.mkdir(exist_ok=True)
    with (folder / "t.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["study", "object", "z", "box"])
        rows.writerows([[address, 1, 3, box_of(1)], [address, 2, 3, box_of(2)]])
    words = ["--dicomweb", server.url, "--table", str(folder / "t.csv"), "-o", str(folder / "out")]
    return [*words, "--format", "dicom-seg", "--store", "--backend", "ort", "--no-previews"]


def cohort(
    server: Orthanc, folder: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, object]]:
    """Rows of results.parquet once the command has run."""
    main(words_for(server, folder, address))
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    found: list[dict[str, object]] = parquet.read_table(results).to_pylist()
    return found


def segmentations(server: Orthanc, study: str) -> list[str]:
    """Series of a study that are segmentations."""
    found = server.asked(f"studies/{study}/series?Modality=SEG")
    return [entry["0020000E"]["Value"][0] for entry in found]  # type: ignore[index]


def test_a_segmentation_is_in_the_study_of_its_series(
    server: Orthanc, held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cohort(server, tmp_path, held.series, capsys)  # whose study is asked for by QIDO
    assert [(row["study"], row["object"], row["exit_code"]) for row in rows] == [
        (held.series, 1, 0),
        (held.series, 2, 0),
    ]
    (series,) = segmentations(server, held.study)
    (tmp_path / "back").mkdir()
    DicomWeb(server.url).fetch(f"{held.study}/{series}", tmp_path / "back")
    (path,) = (tmp_path / "back").iterdir()

    there = highdicom.seg.segread(path)
    volume = read_series(held.folder)
    instances = [pydicom.dcmread(frame.path).SOPInstanceUID for frame in volume.frames]
    assert (there.StudyInstanceUID, there.PatientID) == (held.study, "P7")
    (referred,) = there.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == held.series
    found = there.get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)
    kept = read_segmentation(tmp_path / "out" / str(rows[0]["mask"]), like=volume).labels()
    assert [found[..., n].sum() for n in (0, 1)] == [row["voxels"] for row in rows]
    for n in (0, 1):
        np.testing.assert_array_equal(found[..., n] != 0, kept == n + 1)
        truth = PHANTOM.labels == n + 1
        assert (truth & (kept == n + 1)).sum() > truth.sum() / 2  # it is where the object is


KILLED = """
import os, signal, sys
import pytest
from runtime.cohort.ledger import Ledger
from runtime.commands.cohort import main
from tests.runtime.cohort.inline import work_inline
work_inline(pytest.MonkeyPatch())
Ledger.settle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_what_was_stored_before_a_kill_is_stored_once(
    server: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is killed when the server has the mask, and before the ledger says so."""
    held = send(server, tmp_path / "series", 4)
    command = [sys.executable, "-c", KILLED, *words_for(server, tmp_path, held.address)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    before = segmentations(server, held.study)
    assert len(before) == 1
    rows = cohort(server, tmp_path, held.address, capsys)
    assert [(row["object"], row["state"]) for row in rows] == [(1, "done"), (2, "done")]
    assert segmentations(server, held.study) == before
    assert len(server.asked(f"studies/{held.study}/series/{before[0]}/instances")) == 1


def draw(server: Orthanc, held: Held, folder: Path, maker: str) -> None:
    """Put a segmentation of two objects into the study, on the slice that is asked for."""
    labels = np.zeros_like(PHANTOM.labels)
    labels[3] = np.where(PHANTOM.labels[3] <= 2, PHANTOM.labels[3], 0)
    options = SegmentationOptions(algorithm=Algorithm(name=maker))
    write_segmentation(folder / f"{maker}.dcm", labels, read_series(held.folder), options)
    DicomWeb(server.url).store(folder / f"{maker}.dcm")


def test_a_search_is_done_page_by_page(
    server: Orthanc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Series that a query finds, each asked for what somebody has drawn into its study."""
    monkeypatch.setattr("runtime.io.dicom.web.PAGE", 2)
    found = [send(server, tmp_path / f"{n}", n, "SEARCHED") for n in (5, 6, 7, 8, 9)]
    send(server, tmp_path / "other", 10, "ANOTHER")
    *drawn, doubtful, bare = found
    for held in (*drawn, doubtful):
        draw(server, held, tmp_path, "somebody")
    draw(server, doubtful, tmp_path, "somebody else")
    draw(server, drawn[0], tmp_path, DISTRIBUTION)  # ours, which asks for nothing

    web = DicomWeb(server.url)
    query = {"Modality": "CT", "PatientID": "SEARCHED", "StudyDate": "20240106-20240108"}
    pages = list(web.search(query))
    assert [len(page) for page in pages] == [2, 1]
    assert {address for page in pages for address in page} == {h.address for h in found[1:4]}
    assert list(web.search({"Modality": "CT", "PatientID": "NOBODY"})) == []
    wild = {"Modality": "CT", "SeriesDescription": "th*", "PatientName": "Phantom?O*"}
    assert sum(map(len, web.search(wild, 4))) == 4

    words = ["--dicomweb", server.url, "-o", str(tmp_path / "out"), "--format", "dicom-seg"]
    words += ["--search", "Modality=CT", "--search", "PatientID=SEARCHED", "--store"]
    words += ["--backend", "ort", "--no-previews"]
    main([*words, "--limit", "1"])
    main(words)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["studies"] == {"done": 3, "failed": 2, "waiting": 0}
    rows = parquet.read_table(told["results"]).to_pylist()
    by_study = {held.address: [r for r in rows if r["study"] == held.address] for held in found}
    for held in drawn:
        assert [(row["object"], row["exit_code"]) for row in by_study[held.address]] == [
            (1, 0),
            (2, 0),
        ]
    (two,), (none,) = by_study[doubtful.address], by_study[bare.address]
    assert (two["error"], none["error"]) == ("InputError", "MissingInput")
    assert (two["exit_code"], none["exit_code"]) == (3, 3)
    before = segmentations(server, drawn[1].study)
    assert len(before) == 2

    draw(server, bare, tmp_path, "somebody")
    main([*words, "--retry"])  # what was stored asks for nothing itself
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["studies"] == {"done": 4, "failed": 1, "waiting": 0}
    assert segmentations(server, drawn[1].study) == before


def test_a_search_that_finds_nothing_is_refused(server: Orthanc, tmp_path: Path) -> None:
    words = ["--dicomweb", server.url, "-o", str(tmp_path / "out"), "--search", "Modality=XX"]
    with pytest.raises(InputError, match=r"no series of .* is Modality=XX"):
        main(words)


def test_who_does_not_say_who_he_is_gets_nothing(
    server: Orthanc, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(Sam2Error, match=f"401 .* ~/.netrc or {TOKEN}"):
        DicomWeb(server.url).fetch(held.address, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_token_opens_a_server_that_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with orthanc(tmp_path / "o", token="s.e-c_ret") as server:
        with pytest.raises(Sam2Error, match="403"):
            send(server, tmp_path / "no", 2)
        monkeypatch.setenv(TOKEN, "s.e-c_ret")
        held = send(server, tmp_path / "yes", 2)
        monkeypatch.setenv(TOKEN, "another")
        (row,) = cohort(server, tmp_path / "refused", held.address, capsys)
        assert (row["exit_code"], row["error"]) == (1, "Sam2Error")
        assert TOKEN in str(row["message"])
        monkeypatch.setenv(TOKEN, "s.e-c_ret")
        assert len(cohort(server, tmp_path / "taken", held.address, capsys)) == 2


def test_a_server_that_goes_is_a_row_and_comes_back(
    server: Orthanc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = send(server, tmp_path / "series", 3)
    fetch = DicomWeb.fetch

    def fetch_and_stop(web: DicomWeb, address: str, folder: Path) -> None:
        fetch(web, address, folder)
        for client in (web._client, web._sender):
            client.set_http_retry_params(retry=False)  # which takes half a minute
        server.stop()

    monkeypatch.setattr(DicomWeb, "fetch", fetch_and_stop)
    try:
        (row,) = cohort(server, tmp_path, held.address, capsys)
    finally:
        server.start()
    assert (row["state"], row["exit_code"], row["error"]) == ("failed", 1, "Sam2Error")
    assert "does not answer" in str(row["message"])
    assert segmentations(server, held.study) == []
