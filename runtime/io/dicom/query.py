"""What series are searched for by (QIDO-RS, PS3.18 section 8.3.4), and whether an answer, or a header, is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from typing import Any

from runtime.errors import InputError

STUDY, SERIES = "0020000D", "0020000E"
KEYWORDS = {
    "Modality": "00080060",
    "StudyDate": "00080020",
    "PatientID": "00100020",
    "PatientName": "00100010",
    "StudyDescription": "00081030",
    "SeriesDescription": "0008103E",
    "BodyPartExamined": "00180015",
    "AccessionNumber": "00080050",
    "StudyInstanceUID": STUDY,
    "SeriesNumber": "00200011",
}
"""What may be searched by, and its tag."""
_DATE = "StudyDate"
_DATES = re.compile(r"(?P<first>\d{8})?(?P<to>-)?(?P<last>\d{8})?")
_LONGEST = 64  # letters, of a Long String


Choice = str | Mapping[str, str]
"""Which series of a folder: its UID, or what its headers say, as `parse_query` gives it."""


def parse_choice(words: Sequence[str] | None) -> Choice | None:
    """Which series of a folder is meant: a UID alone, or KEYWORD=VALUE; None of nothing. Raises InputError."""
    if not words or (len(words) == 1 and "=" not in words[0]):
        return words[0] if words else None
    return parse_query(words, is_of_server=False)


def parse_query(words: Sequence[str], is_of_server: bool = True) -> dict[str, str]:
    """Of KEYWORD=VALUE, in which * and ? stand for others, and of dates D, D-D, D- or -D.

    Raises InputError for other keywords and values, for one that is given twice, and where a server is asked without a
    modality: what else is in studies is no image.
    """
    query: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in KEYWORDS or name in query:
            raise InputError(
                f"found the search {word!r}; wanted each of {', '.join(KEYWORDS)} once, such as Modality=CT"
            )
        if not value.strip("*? ") or len(value) > _LONGEST or not value.isprintable():
            raise InputError(
                f"found the search {word!r}; wanted {name}= and what is searched for, up to {_LONGEST} letters"
            )
        if name == _DATE and not _is_dates(value):
            raise InputError(
                f"found the search {word!r}; wanted a date as 20240131, or some as 20240101-20240131"
            )
        query[name] = value
    if is_of_server and "Modality" not in query:
        raise InputError(
            "the search says no modality; wanted Modality=CT, or MR, and whatever else"
        )
    return query


def value_of(entry: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM's JSON, "" where there is none."""
    values = entry.get(tag, {}).get("Value") or [""]
    value = values[0].get("Alphabetic", "") if isinstance(values[0], dict) else values[0]
    return str(value)


def unasked(entry: Mapping[str, Any], query: Mapping[str, str]) -> str:
    """What an answer has that was not searched for, in words, or nothing; servers pass over what they do not know."""
    for name, wanted in query.items():
        # Blanks at the ends mean nothing (PS3.5 section 6.2).
        if (found := value_of(entry, KEYWORDS[name]).strip(" ")) and not _fits(name, found, wanted):
            return f"{name} {found!r} for {wanted!r}"
    return ""


def is_asked(said: Mapping[str, str], query: Mapping[str, str]) -> bool:
    """Whether a header is what a query asks for; what it does not say is not what was asked for.

    Args:
        said: the values of the query's keywords.
        query: as `parse_query` gives it.
    """
    found = {name: said[name].strip(" ") for name in query}
    return all(found[name] and _fits(name, found[name], wanted) for name, wanted in query.items())


def _fits(name: str, found: str, wanted: str) -> bool:
    if name == _DATE:
        dates = _DATES.fullmatch(wanted)
        first, last = (dates["first"] or "", dates["last"] or "") if dates else ("", "")
        if dates and not dates["to"]:
            return found == first
        return first <= found and (not last or found <= last)
    # Brackets are no signs here; capitals matter to some servers and not to others.
    pattern = translate(wanted.replace("[", "[[]"))
    return re.match(pattern, found, re.IGNORECASE) is not None


def _is_dates(value: str) -> bool:
    dates = _DATES.fullmatch(value)
    if dates is None:
        return False
    return bool(dates["to"] and (dates["first"] or dates["last"])) or bool(
        dates["first"] and not dates["last"]
    )
