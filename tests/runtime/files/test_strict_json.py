"""JSON from outside, held to rules."""

from __future__ import annotations

import pytest

from runtime.files.strict_json import Fault, parse
from tests.time_limit import time_limit

MOST_S = 60.0  # hours, where each name is compared with all others


def test_a_name_that_is_there_twice_is_found_among_many() -> None:
    names = [f'"{number}":0' for number in range(300_000)]
    text = "{" + ",".join([*names, names[-1]]) + "}"
    with time_limit(MOST_S), pytest.raises(Fault, match="'299999' is there twice"):
        parse(text)
    assert len(parse("{" + ",".join(names) + "}")) == len(names)
