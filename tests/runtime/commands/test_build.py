"""`python -m runtime.build`: engines are trusted when they are certified, and otherwise the next ones are tried."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runtime.commands.build as build
from export.variants import VARIANTS
from runtime.backends.certificate import stamp
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.errors import BundleError, InputError, Mismatch
from runtime.files.cache import VARIABLE
from tests.export.test_trt_build import needs_tensorrt

RELEASED = VARIANTS["sam2.1_hiera_t"].numbers(1024)


class Card:
    """A GPU on which only some back ends compute the right thing."""

    def __init__(self) -> None:
        self.right: set[str] = set()
        self.built: list[str] = []
        self.engines: list[str] = []
        self.refused: set[str] = set()

    def load(self, bundle: Bundle, name: str) -> Any:
        self.built.append(name)
        if name in self.refused:
            raise BundleError("no such node")
        return SimpleNamespace(engine=self.engines.append, close=lambda: None)

    def certify(self, bundle: Bundle, name: str, num_slices: int) -> dict[str, Any]:
        errors = {"relative_error": 0.5, "relative_rms_error": 0.5}
        return {
            **stamp(bundle, name),
            "passed": name in self.right,
            "graphs": {"memory_encoder": {"memory": errors}},
            "propagation": {"click": {"lowest_dice": 0.9, "passed": True}},
            "latency_ms": 1.0,
            "times_reference": 30.0,
        }


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Card:
    made = Card()
    # Certificates of an imagined card must not outlive it.
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "load", made.load)
    monkeypatch.setattr(build, "certify", made.certify)
    return made


def test_engines_that_pass_are_kept_and_auto_takes_them(
    card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    card.right = {"trt-bf16"}
    build.main([])
    assert card.built == ["trt-bf16"] and card.engines == list(GRAPHS)
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["auto"] == "trt-bf16"
    assert report["certificates"][0]["build_s"] >= 0
    assert "trt-bf16: passed" in err


def test_engines_that_fail_are_refused_and_the_next_are_tried(
    card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    card.right = {"trt-mixed-unfused", "trt-fp32"}
    build.main(["--backend", "trt-bf16"])
    assert card.built == ["trt-bf16", "trt-bf16-unfused", "trt-mixed", "trt-mixed-unfused"]
    out, err = capsys.readouterr()
    assert [c["passed"] for c in json.loads(out)["certificates"]] == [False, False, False, True]
    assert err.count("is refused for this bundle on this card") == 3


def test_engines_that_cannot_be_built_are_passed_over(
    card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    card.refused, card.right = {"trt-bf16"}, {"trt-bf16-unfused"}
    build.main(["--backend", "trt-bf16"])
    out, err = capsys.readouterr()
    assert [c["backend"] for c in json.loads(out)["certificates"]] == ["trt-bf16-unfused"]
    assert "trt-bf16 cannot be built: no such node" in err
    card.refused = set(card.built) | {"trt-fp32", "trt-fp32-unfused"}
    with pytest.raises(BundleError, match="no such node"):
        build.main(["--backend", "trt-fp32"])


def test_where_nothing_passes_that_is_an_error(
    card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Mismatch, match="tried trt-fp32, trt-fp32-unfused"):
        build.main(["--backend", "trt-fp32"])
    assert json.loads(capsys.readouterr().out)["auto"] == "ort"


def test_a_precision_beside_the_ladder_falls_to_its_end() -> None:
    assert build.fallbacks("trt-fp16", RELEASED) == ["trt-fp16", "trt-fp32", "trt-fp32-unfused"]
    assert build.fallbacks("trt-bf16", RELEASED)[-2:] == ["trt-fp32", "trt-fp32-unfused"]


def test_our_own_kernel_is_tried_first_where_it_reads_such_memories() -> None:
    embedded = open_bundle().model
    first, *rest = build.fallbacks(None, RELEASED)
    assert first == "trt-bf16-kernel" and rest == build.fallbacks("trt-bf16", RELEASED)
    assert build.fallbacks(None, embedded) == rest
    assert build.fallbacks(first, embedded) == [first, *rest], "what was asked for is tried"


def test_too_few_slices_are_refused(card: Card) -> None:
    with pytest.raises(InputError, match="wanted 3 or more"):
        build.main(["--slices", "2"])


@needs_tensorrt
def test_a_check_builds_every_graph_for_every_shape_without_a_gpu(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main(["--check", "--bundle", str(toy_bundle.path), "--backend", "trt-mixed-unfused"])
    found = json.loads(capsys.readouterr().out)["graphs"]
    assert list(found) == list(GRAPHS)
    for row in found.values():
        assert row["bytes"] > 10000 and row["profiles"] >= 2


@needs_tensorrt
def test_a_check_builds_segments_where_memory_is_read_by_our_own_kernel(
    wide_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = {"volume": ("memory_attention",)}  # the others are built as above
    monkeypatch.setattr("runtime.bundle.contract.KINDS", only)
    build.main(["--check", "--bundle", str(wide_bundle.path)])
    found = json.loads(capsys.readouterr().out)["graphs"]
    assert list(found) == [f"memory_attention.{i}" for i in range(4)]
    assert all(row["bytes"] > 10000 and row["profiles"] >= 2 for row in found.values())
