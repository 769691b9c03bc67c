"""Engines on disk: found again by everything that makes them right, and by nothing less."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.lowering.typed_graph import PRECISIONS, Precision
from runtime.backends.tensorrt import engines
from runtime.backends.tensorrt.build import profiles
from runtime.backends.tensorrt.engines import EngineCache, EngineKey, key_of
from runtime.backends.tensorrt.parts import EnginePart, parts
from runtime.bundle.bundle import open_bundle
from runtime.files.cache import VARIABLE
from tests.fakes import FAKE_NUMBERS

GRAPH = "memory_encoder"


class Builder:
    """Stands in for TensorRT: notes what is built, and gives bytes that tell one build from another."""

    def __init__(self) -> None:
        self.built: list[tuple[str, Path | None]] = []
        self.uses_tf32: list[bool] = []
        self.version = "tensorrt 11.4"

    def build(
        self, typed: bytes, wanted: Any, graph: str, timings: Any, progress: Any, uses_tf32: bool
    ) -> bytes:
        self.built.append((graph, timings))
        self.uses_tf32.append(uses_tf32)
        return f"engine {len(self.built)}".encode()


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(engines, "build_engine", made.build)
    monkeypatch.setattr(engines, "tensorrt_version", lambda: made.version)
    return made


@cache
def part(precision: Precision) -> EnginePart:
    """Of the embedded model's memory encoder."""
    (found,), _ = parts(open_bundle(), GRAPH, precision)
    return found


@pytest.mark.parametrize("part", [each.name for each in fields(EngineKey)])
def test_every_part_of_a_key_makes_another_name(part: str) -> None:
    key = EngineKey("image_encoder", "a", "b", "tensorrt 11", "H200", "90")
    assert replace(key, **{part: "other"}).name != key.name
    assert replace(key).name == key.name


def test_other_shapes_make_another_key() -> None:
    wanted = profiles(FAKE_NUMBERS, GRAPH)
    rest = ("tensorrt 11", "H200", "90")
    one = key_of(GRAPH, b"graph", wanted, *rest)
    assert key_of(GRAPH, b"graph", wanted[1:], *rest) != one
    assert key_of(GRAPH, b"graph ", wanted, *rest) != one
    again = [dict(reversed(shapes.items())) for shapes in wanted]
    assert key_of(GRAPH, b"graph", again, *rest) == one


def test_an_engine_is_built_once(builder: Builder, tmp_path: Path) -> None:
    precision = PRECISIONS["bf16"]
    kept = EngineCache("H200", "90", tmp_path)
    first = kept.engine(part(precision))
    assert kept.engine(part(precision)) == first
    assert EngineCache("H200", "90", tmp_path).engine(part(precision)) == first
    assert len(builder.built) == 1
    ((_, timings),) = builder.built
    assert builder.uses_tf32 == [True]
    kept.engine(part(PRECISIONS["mixed"]))
    assert builder.uses_tf32 == [True, False], "what is not lowered is exact"
    assert timings == tmp_path / "tensorrt-11.4-H200-90.timings"


def test_whatever_makes_an_engine_wrong_makes_a_new_one(builder: Builder, tmp_path: Path) -> None:
    def ask(precision: Precision, device: str = "H200", architecture: str = "90") -> bytes:
        return EngineCache(device, architecture, tmp_path).engine(part(precision))

    bf16 = PRECISIONS["bf16"]
    found = {
        ask(bf16),
        ask(PRECISIONS["fp32"]),
        ask(PRECISIONS["fp16"]),
        ask(bf16, device="L4"),
        ask(bf16, architecture="89"),
    }
    builder.version = "tensorrt 11.5"
    found.add(ask(bf16))
    assert len(found) == len(builder.built) == 6


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "empty", "no engine"])
def test_a_damaged_engine_is_built_again(damage: str, builder: Builder, tmp_path: Path) -> None:
    cache, precision = EngineCache("H200", "90", tmp_path), PRECISIONS["fp32"]
    cache.engine(part(precision))
    (plan,) = tmp_path.glob("*.engine")
    data = plan.read_bytes()
    if damage == "no engine":
        plan.unlink()
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        plan.write_bytes({"cut short": data[:-1], "a flipped bit": flipped, "empty": b""}[damage])
    assert cache.engine(part(precision)) == b"engine 2"
    assert cache.engine(part(precision)) == b"engine 2"


def test_nothing_is_kept_where_nothing_can_be(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    kept = EngineCache.of_this_user("H200", "90")
    for _ in range(2):
        kept.engine(part(PRECISIONS["fp32"]))
    assert builder.built == [(GRAPH, None)] * 2
