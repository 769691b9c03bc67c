"""Studies from a DICOMweb server, and masks back to it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from runtime.bundle.bundle import open_bundle
from runtime.cohort.find import study_on_server
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome, StudyTask
from runtime.cohort.review import Decision, Review
from runtime.cohort.settings import Settings
from runtime.cohort.study import StudyPrompts
from runtime.cohort.table import read_table
from runtime.cohort.worker import StudyWorker
from runtime.commands.cohort import main
from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.io.dicom import read_segmentation, read_series
from runtime.io.dicom.web import TOKEN, DicomWeb
from runtime.jobs.job import Job
from runtime.memory import MemoryRules
from runtime.serve.bits import unpack
from tests.dicoms import save_series
from tests.dicomweb_server import DicomWebServer, dicomweb_server
from tests.fakes import SEEING, fake_model
from tests.runtime.serve.browser import Served
from tests.runtime.serve.page_client import Client

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
BOX = StudyPrompts.of_rows([("1", "box", "1,0,2,0,2")])


@pytest.fixture
def server() -> Iterator[DicomWebServer]:
    with dicomweb_server() as server:
        yield server


@pytest.fixture
def held(server: DicomWebServer, tmp_path: Path) -> tuple[str, str]:
    """The UIDs of a series that the server has, and tmp_path/series."""

    def with_uids(dataset: pydicom.Dataset, index: int) -> None:
        dataset.FrameOfReferenceUID, dataset.PatientID = "1.2.826.0.1.9", "P7"

    save_series(tmp_path / "series", with_uids)
    return server.hold(tmp_path / "series")


def fetched(server: DicomWebServer, address: str, folder: Path) -> np.ndarray:
    folder.mkdir()
    DicomWeb(server.url).fetch(address, folder)
    return read_series(folder).array


def test_a_series_comes_as_it_is(
    server: DicomWebServer, held: tuple[str, str], tmp_path: Path
) -> None:
    wanted = read_series(tmp_path / "series").array
    for n, address in enumerate(("/".join(held), held[1])):
        np.testing.assert_array_equal(fetched(server, address, tmp_path / f"{n}"), wanted)


def test_what_is_not_there_is_missed(
    server: DicomWebServer, held: tuple[str, str], tmp_path: Path
) -> None:
    for address in (f"{held[0]}/1.2.3", "1.2.3"):
        with pytest.raises(MissingInput):
            fetched(server, address, tmp_path / address.replace("/", "-"))
    for address in ("../secret", "a/b", "1/2/3", ""):
        with pytest.raises(InputError, match="UID"):
            DicomWeb(server.url).fetch(address, tmp_path)
    nobody = DicomWeb("http://127.0.0.1:9/discard")
    nobody._client.set_http_retry_params(retry=False)
    with pytest.raises(Sam2Error, match=r"does not answer for series 1\.2/3: Failed to establish"):
        nobody.fetch("1.2/3", tmp_path)


def test_an_answer_that_breaks_off_is_no_series(
    server: DicomWebServer, held: tuple[str, str], tmp_path: Path
) -> None:
    """Between two images nothing tells it from the end: of a file that it has lost, Orthanc answers so."""
    server.most = 3
    with pytest.raises(Sam2Error, match="gave 3 of the 5 images"):
        fetched(server, "/".join(held), tmp_path / "cut")


def test_images_of_another_series_are_refused(
    server: DicomWebServer, held: tuple[str, str], tmp_path: Path
) -> None:
    server.series["1.2", "3.4"] = server.series[held]
    with pytest.raises(Sam2Error, match=f"image of the series '{held[1]}' for 3.4"):
        fetched(server, "1.2/3.4", tmp_path / "other")


def test_a_server_that_stays_busy_is_told_of(server: DicomWebServer, tmp_path: Path) -> None:
    server.status, web = 429, DicomWeb(server.url)
    web._client.set_http_retry_params(max_attempts=2, wait_exponential_multiplier=1)
    for ask in (lambda: web.fetch("1.2/3.4", tmp_path), lambda: [*web.search({"Modality": "CT"})]):
        with pytest.raises(Sam2Error, match=r"answered 429 .* 2 times; try again later"):
            ask()


@pytest.mark.parametrize(
    "answer",
    [
        *(b"<html>who are you?</html>", b"null", b"5", b"[null]", b'["a"]', b"[" * 100_000),
        *(b'[{"0020000D": 7}]', b'[{"00080060": {"Value": ["CT"]}}]'),
    ],
)
def test_what_is_no_answer_is_refused(
    server: DicomWebServer, tmp_path: Path, answer: bytes
) -> None:
    server.answer, web = answer, DicomWeb(server.url)
    for ask in (
        lambda: web.fetch("1.2/3.4", tmp_path),
        lambda: web.fetch_segmentation("3.4", tmp_path),
        lambda: [*web.search({"Modality": "CT"})],
    ):
        with pytest.raises(Sam2Error):
            ask()


def test_a_token_is_shown(
    server: DicomWebServer,
    held: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.token = "secret"
    with pytest.raises(Sam2Error, match=TOKEN):
        fetched(server, "/".join(held), tmp_path / "no")
    for name, text in (("yes", "secret"), ("by $(cat FILE)", "\ufeffsecret\r")):
        monkeypatch.setenv(TOKEN, text)
        assert fetched(server, "/".join(held), tmp_path / name).size


@pytest.mark.parametrize("url", ["pacs/dicom-web", "ftp://pacs/x", "https://me:secret@pacs/x"])
def test_addresses_are_looked_at(url: str) -> None:
    with pytest.raises(InputError):
        DicomWeb(url)


def done(
    server: DicomWebServer, tmp_path: Path, address: str, known_key: str | None = None
) -> StudyOutcome:
    job = Job(tmp_path, tmp_path, [], MemoryRules())
    settings = Settings(job, open_bundle().fingerprint, "dicom-seg", False, server.url, stores=True)
    task = StudyTask(1, address, Path(address), BOX, known_key)
    return StudyWorker(settings, tmp_path / "out").do(task)


def test_a_mask_goes_back(
    server: DicomWebServer,
    held: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("highdicom")
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    address = "/".join(held)
    outcome = done(server, tmp_path, address)
    assert (outcome.exit_code, outcome.message) == (0, "")
    (stored,) = server.stored
    (tmp_path / "back.dcm").write_bytes(stored)
    volume = read_series(tmp_path / "series")
    back = read_segmentation(tmp_path / "back.dcm", like=volume)
    kept = read_segmentation(tmp_path / "out" / "masks" / f"{address}.dcm", like=volume)
    np.testing.assert_array_equal(back.labels(), kept.labels())
    assert pydicom.dcmread(io.BytesIO(stored)).StudyInstanceUID == held[0]

    assert done(server, tmp_path, address, outcome.key).is_unchanged
    assert len(server.stored) == 1
    assert done(server, tmp_path, address).exit_code == 0  # whoever had stored it was killed then
    again, before = (pydicom.dcmread(io.BytesIO(file)) for file in (server.stored.pop(), stored))
    assert again.SOPInstanceUID == before.SOPInstanceUID
    assert again.SeriesInstanceUID == before.SeriesInstanceUID
    server.conflicts = True
    assert done(server, tmp_path, address).exit_code == 0
    assert len(server.stored) == 1
    server.stored.clear()
    server.loses = True
    assert "did not take" in done(server, tmp_path, address).message
    server.refuses = True
    assert done(server, tmp_path, address).exit_code == 1
    assert done(server, tmp_path, "1.2.3").exit_code == 3


def test_what_a_busy_server_asks_for_again_is_whole(server: DicomWebServer, tmp_path: Path) -> None:
    """More than dicomweb-client sends at a time."""

    def large(dataset: pydicom.Dataset, index: int) -> None:
        dataset.Rows = dataset.Columns = 800
        dataset.PixelData = bytes(2 * 800 * 800)

    save_series(tmp_path / "series", large, depth=1)
    server.num_busy, web = 1, DicomWeb(server.url)
    web._sender.set_http_retry_params(wait_exponential_multiplier=1)
    web.store(tmp_path / "series" / "000.dcm")
    (stored,) = server.stored
    assert len(pydicom.dcmread(io.BytesIO(stored)).PixelData) == 2 * 800 * 800


def test_a_table_names_series(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('study,z,box\n1.2/3.4,5,"1,2,1,2"\n')
    (study,) = read_table(tmp_path / "t.csv", None)
    assert (study.name, study.path, study.size_bytes) == ("1.2/3.4", Path("1.2/3.4"), 0)


def test_an_address_is_the_same_with_a_stroke_at_its_end(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.csv").write_text("study,box\n")
    words = ["--table", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "--dicomweb"]
    # As long as there is no study, an address that was wrong can be put right.
    for url in ("http://y/", "http://x/dicom-web/", "http://x/dicom-web"):
        with pytest.raises(InputError, match="has no row"):
            main([*words, url])
    ledger = Ledger(tmp_path / "out")
    ledger.meet([study_on_server("1/2", BOX)], "settings", retries=False)
    ledger.close()
    with pytest.raises(InputError, match="is the cohort of http://x/dicom-web;"):
        main([*words, "http://x/other"])


@pytest.mark.parametrize(
    "words",
    [
        ["--dicomweb", "http://x"],
        ["--dicomweb", "http://x", "--table", "t.csv", "--search", "Modality=CT"],
        ["--dicomweb", "http://x", "--table", "t.csv", "--limit", "3"],
        ["-i", ".", "--search", "Modality=CT"],
        ["-i", ".", "--store", "--format", "dicom-seg"],
        [],
    ],
)
def test_options_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "-o", "new"])


def searched(answers: list[list[str]], most: int | None = None) -> tuple[list[list[str]], int]:
    """Pages of a search on a server that gives these in turn, the last one for ever; and how often it was asked."""
    web, asked = DicomWeb("http://127.0.0.1:9/discard"), []

    def search_for_series(**words: object) -> list[dict[str, object]]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(words["offset"])
        tags = "0020000D", "0020000E"
        return [{tag: {"Value": [uid]} for tag in tags} for uid in found]

    web._client.search_for_series = search_for_series
    return list(web.search({"Modality": "CT"}, most)), len(asked)


def test_a_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.io.dicom.web.PAGE", 2)
    one, two, three = ["1", "2"], ["3", "4"], ["5"]
    pages = [[f"{uid}/{uid}" for uid in page] for page in (one, two, three)]
    assert searched([one, two, three, []]) == (pages, 4)
    assert searched([one, two, three], 3) == ([pages[0], pages[1][:1]], 2)
    assert searched([[]]) == ([], 1)
    assert searched([three]) == ([pages[2]], 2)  # of a server that knows no pages
    many = ["1", "2", "3"]
    assert searched([many]) == ([[f"{uid}/{uid}" for uid in many]], 2)
    with pytest.raises(Sam2Error, match="again and again"):
        searched([one])


def test_a_server_that_passes_over_what_it_is_asked_is_refused() -> None:
    web = DicomWeb("http://127.0.0.1:9/discard")
    answer = {"00080060": {"Value": ["CT"]}, "00100020": {"Value": ["P8"]}}
    web._client.search_for_series = lambda **_: [answer]
    with pytest.raises(Sam2Error, match="PatientID 'P8' for 'P7'"):
        list(web.search({"Modality": "CT", "PatientID": "P7"}))


@pytest.fixture
def out(
    server: DicomWebServer, held: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cohort of a series there, whose mask is a segmentation."""
    pytest.importorskip("highdicom")
    monkeypatch.setattr(Job, "load", lambda job: fake_model(SEEING)[0])
    address, out = "/".join(held), tmp_path / "out"
    out.mkdir()
    ledger = Ledger(out)
    ledger.note("input", server.url)
    ledger.meet([study_on_server(address, BOX)], "settings", retries=False)
    ledger.settle(done(server, tmp_path, address), f"masks/{address}.dcm")
    ledger.close()
    return out


def test_what_came_from_a_server_is_reviewed_with_its_segmentation(
    out: Path, held: tuple[str, str], tmp_path: Path
) -> None:
    review, address = Review(out), "/".join(held)
    kept = read_segmentation(
        out / "masks" / f"{address}.dcm", like=read_series(tmp_path / "series")
    )
    served = Served(fake_model(SEEING)[0], review=review)
    try:
        client = Client(served.port)
        client.claim()
        reviewing = client.ask("POST", "/api/review/open", {"study": address}).json["reviewing"]
        ((number, shown),) = reviewing["objects"]
        seen = client.ask("GET", f"/api/objects/{shown}/mask").body
        np.testing.assert_array_equal(unpack(seen, kept.mask(1).shape) != 0, kept.mask(1))
        words = {"study": address, "object": number, "shown": shown, "key": reviewing["key"]}
        effort = {"verdict": "accepted", "seconds": 1, "clicks": 0}
        assert client.ask("POST", "/api/review/decide", words | effort).status == 200
    finally:
        served.stop()
    assert review.latest()[address, 1].dice == 1


def test_what_was_accepted_is_fetched_again_and_exported(
    out: Path, held: tuple[str, str], tmp_path: Path
) -> None:
    review, address = Review(out), "/".join(held)
    review.record(Decision(address, 1, "accepted", "me", review.study(address)["key"]))
    main(["export", str(out), "-o", str(tmp_path / "new"), "--format", "dicom-seg"])
    volume = read_series(tmp_path / "series")
    new = read_segmentation(tmp_path / "new" / f"{address}.dcm", like=volume)
    kept = read_segmentation(out / "masks" / f"{address}.dcm", like=volume)
    np.testing.assert_array_equal(new.labels(), kept.labels())
    assert new.names == {1: "Lesion 1"}
    for words, name in (
        (["--code", "SCT:10200004:Liver"], "Liver 1"),
        (["--code", "SCT:10200004:Liver", "--code", "1=SCT:64033007:Kidney"], "Kidney 1"),
    ):
        folder = tmp_path / name
        main(["export", str(out), "-o", str(folder), "--format", "dicom-seg", *words])
        coded = read_segmentation(folder / f"{address}.dcm", like=volume)
        assert coded.names == {1: name}
        np.testing.assert_array_equal(coded.labels(), kept.labels())
