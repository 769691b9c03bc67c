"""What may be searched for on a DICOMweb server, and what of its answers was asked for."""

from __future__ import annotations

import pytest

from runtime.errors import InputError
from runtime.io.dicom.query import KEYWORDS, is_asked, parse_choice, parse_query, unasked


def answer(**values: object) -> dict[str, object]:
    return {KEYWORDS[name]: {"vr": "XX", "Value": [value]} for name, value in values.items()}


def test_a_query_is_of_keywords_and_values() -> None:
    words = ["Modality=CT", "StudyDate=20240101-20240131", "SeriesDescription=thorax = *"]
    assert parse_query(words) == {
        "Modality": "CT",
        "StudyDate": "20240101-20240131",
        "SeriesDescription": "thorax = *",
    }


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["StudyDate=20240101"],
        ["Modality=CT", "Modality=MR"],
        ["Modality"],
        ["Modality=*"],
        ["Modality=CT", "Rows=512"],
        ["Modality=CT", "PatientID="],
        ["Modality=CT", "PatientID=a\nb"],
        ["Modality=CT", "PatientID=" + "7" * 65],
        *(["Modality=CT", f"StudyDate={date}"] for date in ("-", "2024", "2024010120240131", "x")),
    ],
)
def test_others_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError):
        parse_query(words)


@pytest.mark.parametrize("date", ["20240115", "20240115-", "-20240115", "20240115-20240116"])
def test_dates_hold_their_ends(date: str) -> None:
    assert parse_query(["Modality=CT", f"StudyDate={date}"])["StudyDate"] == date
    assert not unasked(answer(StudyDate="20240115"), {"StudyDate": date})


@pytest.mark.parametrize(
    ("query", "value", "is_right"),
    [
        ({"StudyDate": "20240115"}, "20240116", False),
        ({"StudyDate": "20240115-"}, "20240114", False),
        ({"StudyDate": "-20240115"}, "20240116", False),
        ({"StudyDate": "20240115-20240117"}, "20240116", True),
        ({"PatientID": "P7"}, "P7", True),
        ({"PatientID": "P7"}, "p7", True),
        ({"PatientID": "P7"}, " P7 ", True),
        ({"PatientID": "P7"}, "P77", False),
        ({"PatientID": "P7*"}, "P77", True),
        ({"PatientID": "P?[1]"}, "P7[1]", True),
        ({"PatientID": "P[12]"}, "P1", False),
        ({"PatientName": "Doe^J*"}, {"Alphabetic": "Doe^Jane"}, True),
        ({"PatientName": "Doe^J*"}, {"Alphabetic": "Roe^Jane"}, False),
        ({"PatientName": "Doe^J*"}, {"Ideographic": "x"}, True),  # nothing to compare with
    ],
)
def test_answers_that_nobody_asked_for_are_seen(
    query: dict[str, str], value: object, is_right: bool
) -> None:
    (name,) = query
    assert (unasked(answer(**{name: value}), query) == "") is is_right
    assert unasked({}, query) == ""


def test_a_series_of_a_folder_is_chosen_by_uid_or_words() -> None:
    assert parse_choice(None) is None
    assert parse_choice(["1.2.3"]) == "1.2.3"
    assert parse_choice(["SeriesDescription=a=b*"]) == {"SeriesDescription": "a=b*"}
    for words in (["1.2.3", "1.2.4"], ["1.2.3", "Modality=CT"], ["Rows=5"], ["Modality="]):
        with pytest.raises(InputError, match="found the search"):
            parse_choice(words)


@pytest.mark.parametrize(
    ("said", "query", "is_right"),
    [
        ({"Modality": "CT"}, {"Modality": "ct"}, True),
        ({"Modality": "MR"}, {"Modality": "CT"}, False),
        (
            {"Modality": ""},
            {"Modality": "C*"},
            False,
        ),  # unlike a server, a header leaves nothing out
        (
            {"StudyDate": "20240115", "SeriesNumber": " 3"},
            {"StudyDate": "20240101-", "SeriesNumber": "3"},
            True,
        ),
    ],
)
def test_headers_are_held_against_a_query(
    said: dict[str, str], query: dict[str, str], is_right: bool
) -> None:
    assert is_asked(said, query) is is_right
