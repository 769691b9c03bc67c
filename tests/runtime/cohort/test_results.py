"""The table and the page, from the ledger's rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runtime.cohort.doubt import confidence_of, doubt_of, doubtful_slice
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome, failure
from runtime.cohort.report import PICTURES, CohortFigures, write_report
from runtime.cohort.results import COLUMNS, result_rows, write_results
from runtime.cohort.review import Decision
from runtime.errors import InputError, Sam2Error
from tests.runtime.cohort.fakes import OBJECT, ledger_of, study, told


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A study with two objects, one that has failed, one that waits; names and messages are no markup."""
    ledger = ledger_of(tmp_path, [study("a<b>"), study("c"), study("d")])
    numbers = {row["name"]: row["number"] for row in ledger.rows()}
    two = told() | {
        "objects": [OBJECT, OBJECT | {"id": 2, "doubt": 1.0, "warnings": ["empty_object"]}]
    }
    ledger.settle(StudyOutcome(numbers["a<b>"], key="k", told=two), "masks/a<b>.nii.gz")
    ledger.settle(failure(numbers["c"], InputError("<script>no</script>")), "masks/c")
    return ledger


def test_every_study_has_a_row(ledger: Ledger) -> None:
    said = {("a<b>", 2): Decision("a<b>", 2, "rejected", "me", "k", 5.0, 2)}
    rows = [*result_rows(ledger.rows(), said)]
    assert [(row["verdict"], row["review_clicks"]) for row in rows[:2]] == [
        (None, None),
        ("rejected", 2),
    ]
    assert [(row["study"], row["object"], row["state"], row["exit_code"]) for row in rows] == [
        ("a<b>", 1, "done", 0),
        ("a<b>", 2, "done", 0),
        ("c", None, "failed", 3),
        ("d", None, "waiting", None),
    ]
    assert rows[0]["mask"] == "masks/a<b>.nii.gz"
    assert (rows[1]["review_score"], rows[1]["warnings"]) == (1.0, "empty_object")
    assert all(row.keys() == COLUMNS.keys() for row in rows)


def test_every_column_is_told_of_in_the_document() -> None:
    document = (Path(__file__).parents[3] / "docs" / "cohort.md").read_text("utf-8")
    table = document.partition("| columns of results.parquet |")[2].partition("\n\n")[0]
    told = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert sorted(name for names in told for name in names) == sorted(COLUMNS)


def test_the_table_is_what_the_rows_are(ledger: Ledger, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_results(tmp_path / "results.parquet", ledger.rows(), {}) == 4
    assert parquet.read_table(tmp_path / "results.parquet").to_pylist() == [
        *result_rows(ledger.rows(), {})
    ]


def test_a_table_that_reads_back_otherwise_is_not_kept(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "results.parquet").write_bytes(b"before")

    class Forgetful(parquet.ParquetWriter):  # type: ignore[misc]
        def write_table(self, table: Any, *rest: Any) -> None:
            super().write_table(table.slice(1), *rest)

    monkeypatch.setattr(parquet, "ParquetWriter", Forgetful)
    with pytest.raises(Sam2Error, match="differs"):
        write_results(tmp_path / "results.parquet", ledger.rows(), {})
    assert (tmp_path / "results.parquet").read_bytes() == b"before"


def test_the_page_needs_nothing_but_itself(ledger: Ledger, tmp_path: Path) -> None:
    preview = tmp_path / "previews" / "a<b>.jpg"
    preview.parent.mkdir()
    Image.new("RGB", (900, 300)).save(preview)
    page = write_report(
        tmp_path, ledger.rows("doubt"), ledger.counts(), ["of phantoms"], "caution!"
    ).read_text()
    assert not re.findall(r"<script|(?:src|href)=\"(?!data:)", page)
    assert page.count("data:image/jpeg;base64,") == 1
    for words in (
        "&lt;script&gt;no",
        "a&lt;b&gt;",
        "caution!",
        "of phantoms",
        "1 done, 1 failed, 1 waiting",
    ):
        assert words in page
    scores = re.findall(r"<td>a&lt;b&gt;</td><td class=n>(\d)</td>", page)
    assert scores == ["2", "1"]  # the most doubtful first


def test_where_everything_has_failed_nothing_is_to_be_reviewed(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [study("a")])
    (row,) = ledger.rows()
    ledger.settle(failure(row["number"], InputError("no")), "masks/a")
    page = write_report(tmp_path, ledger.rows("doubt"), ledger.counts(), [], None).read_text()
    assert "Failed" in page and "Review queue" not in page and "Contact sheet" not in page


@pytest.mark.parametrize("count", [3, 24, 30, 48, 1000])
def test_the_contact_sheet_shows_the_doubtful_and_a_choice_of_the_rest(count: int) -> None:
    figures = CohortFigures()
    for i in range(count):
        figures.add({"name": str(i), "state": "done", "told": told()})
    shown = [int(name) for name in figures.pictures()]
    assert len(shown) == len({*shown}) == min(count, PICTURES)
    assert shown[: PICTURES // 2] == [*range(min(count, PICTURES // 2))]
    assert shown == sorted(shown) and shown[-1] > 0.9 * count - 2
    assert len(figures.spread) <= 2 * PICTURES


def entry(*slices: tuple[float, int], prompted: int = 0) -> dict[str, Any]:
    """An object of a report: confidence and voxels of each slice."""
    rows = [
        {"slice": i, "confidence": confidence, "voxels": voxels, "is_prompted": i == prompted}
        for i, (confidence, voxels) in enumerate(slices)
    ]
    return {"slices": rows}


def test_doubt_is_what_an_object_lacks_to_confidence() -> None:
    object_ = entry((0.9, 30), (0.5, 10), (0.0, 0))
    assert confidence_of(object_) == pytest.approx(0.8)
    assert doubt_of(object_, ["low_confidence"]) == pytest.approx(0.2)
    assert doubt_of(object_, ["not_followed"]) == 1.0
    assert confidence_of(entry((0.0, 0))) == 0.0
    assert doubt_of(entry((0.0, 0)), ()) == 1.0


def test_the_slice_to_look_at_is_the_least_sure_one() -> None:
    assert doubtful_slice(entry((0.9, 3), (0.4, 3), (0.0, 0))) == 1
    assert doubtful_slice(entry((0.0, 0), (0.0, 0), prompted=1)) == 1
