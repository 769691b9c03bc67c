"""What waits, what is done, and what makes a study wait again."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from runtime.cohort.ledger import FILE_NAME, Ledger
from runtime.cohort.outcome import StudyOutcome, failure
from runtime.cohort.review import Review
from runtime.errors import InputError
from tests.runtime.cohort.fakes import SETTINGS, ledger_of, states, study, told


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two studies that are done, with their masks, and one that has failed."""
    ledger = ledger_of(tmp_path, [study("a"), study("b"), study("c")])
    for row in list(ledger.rows()):
        if row["name"] == "c":
            ledger.settle(failure(row["number"], InputError("no")), "masks/c")
            continue
        (tmp_path / row["name"]).write_bytes(b"mask")
        ledger.settle(StudyOutcome(row["number"], key="k", told=told()), row["name"])
    return ledger


def waiting(ledger: Ledger) -> set[str]:
    return {name for name, (state, _, _) in states(ledger).items() if state == "waiting"}


ALL = [study("a"), study("b"), study("c")]


def test_what_is_as_it_was_keeps_its_state(ledger: Ledger) -> None:
    ledger.meet(ALL, SETTINGS.key, retries=False)
    assert ledger.check_masks() == 0
    assert waiting(ledger) == set()
    assert ledger.counts().failed == 1


def test_failures_are_retried_when_asked(ledger: Ledger) -> None:
    ledger.meet(ALL, SETTINGS.key, retries=True)
    assert waiting(ledger) == {"c"}


def test_changes_wait_again(ledger: Ledger) -> None:
    ledger.meet([study("a", stamp="other"), *ALL[1:]], SETTINGS.key, retries=False)
    assert waiting(ledger) == {"a"}
    ledger.meet(ALL, "other settings", retries=False)
    assert waiting(ledger) == {"a", "b", "c"}


def test_new_ones_join(ledger: Ledger) -> None:
    ledger.meet([study("d")], SETTINGS.key, retries=False)
    assert waiting(ledger) == {"d"}
    assert ledger.counts().total == 4


def test_masks_that_are_gone_or_cut_are_made_again(ledger: Ledger) -> None:
    (ledger.folder / "a").unlink()
    (ledger.folder / "b").write_bytes(b"mas")
    assert ledger.check_masks() == 2
    assert waiting(ledger) == {"a", "b"}
    task, losses, _ = ledger.next(()) or pytest.fail("nothing waits")
    assert (task.known_key, losses) == (None, 0)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('{"num', 'k"num'),
        ('"objects"', '"objecus"'),
        ('"total"', '"tntal"'),
        ('"id"', '"if"'),
        ("fake", b"f\xe1ke"),
    ],
)
def test_a_row_with_flipped_bits_is_refused_and_done_again(
    ledger: Ledger, right: str, wrong: str | bytes
) -> None:
    with sqlite3.connect(ledger.folder / FILE_NAME) as db:
        db.execute(
            "UPDATE studies SET told = replace(told, ?, CAST(? AS TEXT)) WHERE name = 'a'",
            (right, wrong),
        )
    for read in (lambda: list(ledger.rows()), lambda: Review(ledger.folder).study("a")):
        with pytest.raises(InputError, match=r"cohort\.sqlite is damaged: its row of a has lost"):
            read()
    ledger.meet(ALL, SETTINGS.key, retries=False)
    assert ledger.check_masks() == 1
    assert waiting(ledger) == {"a"}


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff\n")
    ledger = ledger_of(tmp_path, [study(odd)])
    found = ledger.next(())
    assert found is not None
    assert os.fsencode(found[0].path).endswith(b"caf\xe9 \xff\n")
    assert found[0].name == "caf\\xe9 \\xff\n"


def test_the_most_doubtful_come_first(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [study(name) for name in "abcd"])
    doubts = {"a": 0.1, "b": 0.9, "c": 0.5}
    for row in list(ledger.rows()):
        if row["name"] in doubts:
            ledger.settle(StudyOutcome(row["number"], told=told(doubts[row["name"]])), row["name"])
        else:
            ledger.settle(failure(row["number"], InputError("no")), "")
    assert [row["name"] for row in ledger.rows("doubt")] == ["d", "b", "c", "a"]
