from __future__ import annotations

import json
from random import Random

import pytest

from benchmarks.fuzz.documents import PROMPTS
from benchmarks.fuzz.mutate import BYTE_DAMAGES, TEXT_DAMAGES, damage, damage_json, damage_text

TEXT = b"NRRD0004\ntype: short\nsizes: 4 5 6\nencoding: raw\n"
DOCUMENT = json.dumps(PROMPTS).encode()


@pytest.mark.parametrize(
    ("hurt", "data"),
    [(damage, bytes(range(256)) * 8), (damage_text, TEXT), (damage_json, DOCUMENT)],
)
def test_a_seed_stands_for_one_damage_and_others_for_others(hurt, data: bytes) -> None:
    made = [hurt(data, Random(seed)) for seed in range(60)]
    assert made == [hurt(data, Random(seed)) for seed in range(60)]
    assert len(set(made)) > 50
    assert hurt is damage_json or data not in made


@pytest.mark.parametrize("one", BYTE_DAMAGES)
def test_no_bytes_are_no_trouble(one) -> None:
    for data in (b"", b"a"):
        for seed in range(20):
            assert isinstance(one(data, Random(seed)), bytes)


@pytest.mark.parametrize("one", TEXT_DAMAGES)
def test_no_text_is_no_trouble(one) -> None:
    for seed in range(20):
        assert isinstance(one("", Random(seed)), str)


def test_headers_are_hurt_more_than_the_rest() -> None:
    data = bytes(100_000)
    places = []
    for seed in range(200):
        hurt = damage(data, Random(seed))
        places.append(
            next((i for i, (a, b) in enumerate(zip(hurt, data, strict=False)) if a != b), None)
        )
    early = [place for place in places if place is not None and place < 500]
    assert len(early) > len([place for place in places if place is not None]) / 2
