"""Certifying back ends on this machine, on the embedded model."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.backends import BACKENDS, BackendRow, openvino
from runtime.backends.certificate import choose
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.commands import certify
from runtime.errors import BackendUnavailable, InputError, Mismatch, Sam2Error
from runtime.files.cache import VARIABLE
from runtime.measure.parity import compare_models
from runtime.measure.parting import OTHER_PHANTOMS
from runtime.model import Model, load
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model

SHORT = ["--slices", "3"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(certify, "TIMED_SLICES", 2)
    return tmp_path


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not depend on how models are compared, which takes seconds: any two agree."""
    box = {"lowest_dice": 1.0, "passed": True}
    found = {"passed": True, "graphs": {}, "propagation": {"box": box}}
    monkeypatch.setattr(certify, "compare_models", lambda *_: found)


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Of stdout, which holds nothing else."""
    (line,) = capsys.readouterr().out.splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_back_end_gets_a_certificate_that_holds(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certify.main([*SHORT, "--backend", "openvino"])
    (found,) = report(capsys)["certificates"]
    assert found["passed"] and found["latency_ms"] > 0 and found["reference_latency_ms"] > 0
    assert found["times_reference"] == pytest.approx(
        found["reference_latency_ms"] / found["latency_ms"], rel=0.01
    )
    bundle = open_bundle()
    kept = own_cache / "certificates" / bundle.fingerprint / "openvino.json"
    assert json.loads(kept.read_text()) == found
    choice = choose(bundle)
    assert choice.backend == ("openvino" if found["times_reference"] > 1 else "ort")
    assert "certify" not in choice.reason, "the certificate was read"


def test_auto_goes_by_the_two_latencies(
    agreeing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moods = iter([1.0, 3.0, 2.0, 1.0])  # of a machine that has other things to do in between

    def latency_ms(model: Model) -> float:
        is_reference = model.backend.description.startswith("ONNX Runtime")
        return (10.0 if is_reference else 4.0) * next(moods)

    monkeypatch.setattr(certify, "_latency_ms", latency_ms)
    certify.main([*SHORT, "--backend", "openvino"])
    found = report(capsys)
    (certificate,) = found["certificates"]
    assert (certificate["latency_ms"], certificate["reference_latency_ms"]) == (4.0, 10.0)
    assert found["auto"] == "openvino" and "2.50 times as fast" in found["reason"]


def test_what_is_not_here_is_passed_over_unless_it_was_asked_for(
    agreeing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(BACKENDS):
        if name not in ("ort", "openvino"):
            monkeypatch.delitem(BACKENDS, name)

    def absent(*_: Any) -> None:
        raise BackendUnavailable("this needs beads; pip install abacus")

    monkeypatch.setitem(sys.modules, "runtime.backends.abacus", SimpleNamespace(Abacus=absent))
    monkeypatch.setitem(
        BACKENDS, "abacus", BackendRow("runtime.backends.abacus", "Abacus", ("abacus",))
    )
    certify.main(SHORT)
    captured = capsys.readouterr()
    assert [c["backend"] for c in json.loads(captured.out)["certificates"]] == ["openvino"]
    assert "abacus: not here" in captured.err
    with pytest.raises(BackendUnavailable, match="pip install abacus"):
        certify.main([*SHORT, "--backend", "abacus"])


def test_what_the_processor_does_not_compute_in_is_passed_over_unless_it_was_asked_for(
    agreeing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(BACKENDS, "openvino-bf16")
    monkeypatch.setitem(openvino.CAPABILITIES, "fp16", "ABACUS")
    certify.main(SHORT)
    captured = capsys.readouterr()
    assert [c["backend"] for c in json.loads(captured.out)["certificates"]] == ["openvino"]
    absent = sorted(text for text in captured.err.splitlines() if "not here" in text)
    line, of_none = absent[0], absent[-1]
    assert of_none.startswith("ort-int8: not here") and "--precision int8" in of_none
    assert line.startswith("openvino-fp16: not here") and "does not compute in fp16" in line
    with pytest.raises(BackendUnavailable, match="does not compute in fp16"):
        certify.main([*SHORT, "--backend", "openvino-fp16"])
    assert capsys.readouterr().out == ""


def test_where_nothing_is_kept_the_figures_are_shown_all_the_same(
    agreeing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    certify.main([*SHORT, "--backend", "openvino"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["certificates"][0]["passed"] and found["auto"] == "ort"
    assert "openvino: passed, largest error" in captured.err and "kept as" not in captured.err
    assert captured.err.splitlines()[-1] == f"auto takes ort: {found['reason']}"


def test_a_certificate_that_is_lost_is_a_failure_told_of_before_the_work(
    agreeing: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As of a service's user, who has no home: the next command would say that nobody has certified."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(Sam2Error, match=f"no certificate can be kept.*{VARIABLE}"):
        certify.main([*SHORT, "--backend", "openvino"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["certificates"][0]["passed"]
    assert captured.err.startswith("warning: no certificate can be kept")


class Skewed:
    """A back end whose masks are somewhat higher."""

    def __init__(self, model: Model) -> None:
        self.model, self.description = model, "skewed"
        for part in ("device_memory", "steps", "close"):
            setattr(self, part, getattr(model.backend, part))

    def load(self, graph: str) -> Any:
        engine = self.model.engine(graph)

        class Engine:
            def run(self, inputs: Any, outputs: Any) -> None:
                engine.run(inputs, outputs)
                if graph == "mask_decoder":
                    outputs["low_res_masks"] += np.float32(1.5)

        return Engine()


def test_what_computes_something_else_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def skewed(bundle: Bundle, backend: str) -> Model:
        model = load(bundle, "ort")
        return model if backend == "ort" else Model(model.numbers, Skewed(model), model.constants)

    compared: list[Any] = []

    def compare_once(*models: Any) -> Any:
        """What the two compute does not depend on who asks for it."""
        if not compared:
            compared.append(compare_models(*models))
        return compared[0]

    monkeypatch.setattr(certify, "load", skewed)
    monkeypatch.setattr(certify, "compare_models", compare_once)
    monkeypatch.delitem(BACKENDS, "openvino-bf16")
    monkeypatch.delitem(BACKENDS, "openvino-fp16")
    for is_asked in (True, False):
        if is_asked:
            with pytest.raises(Mismatch, match="openvino: does not compute what ort does"):
                certify.main([*SHORT, "--backend", "openvino"])
        else:
            certify.main(SHORT)
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert re.search(r"openvino: FAILED, .* on the other side of zero, .*largest", captured.err)
        assert found["auto"] == "ort" and "failed" in found["reason"]
        graphs = found["certificates"][0]["graphs"]
        assert not graphs["mask_decoder"]["low_res_masks"]["passed"]
        assert graphs["memory_encoder"]["memory"]["passed"], "it got the reference's own masks"


@pytest.mark.parametrize("whose", ["ort", "openvino"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_gives_nan_fails_with_a_reason_and_is_not_timed(
    graph: str,
    whose: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (output, *_) = graph_specs(FAKE_NUMBERS)[graph].outputs

    def spoiled(bundle: Bundle, backend: str) -> Model:
        answers = {graph: lambda inputs: {output: np.array(np.nan)}} if backend == whose else {}
        return fake_model({**TELLING, **answers})[0]

    monkeypatch.setattr(certify, "load", spoiled)
    with pytest.raises(Mismatch):
        certify.main([*SHORT, "--backend", "openvino"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    (certificate,) = found["certificates"]
    assert not certificate["passed"] and "latency_ms" not in certificate
    whole = "the reference's " if whose == "ort" else ""
    assert f"openvino: FAILED, {whole}{graph} gave NaN or infinity in {output}, " in captured.err
    assert found["auto"] == "ort" and "openvino failed the certificate" in found["reason"]


@pytest.mark.parametrize("passes_on", [1, 3, 4])
def test_what_parts_by_a_pixel_is_asked_on_other_phantoms(
    passes_on: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []

    def flipped(*asked: Any) -> dict[str, Any]:
        """Models that agree, but for a pixel of one slice of the first phantoms."""
        seeds.append(asked[5])
        compared: dict[str, Any] = compare_models(*asked)
        assert compared["passed"]
        if asked[5] < passes_on:
            what = {"object": 1, "slice": 2, "what": "7 pixels on the other side of zero"}
            compared["propagation"]["click"] |= {"first_different_decision": what, "passed": False}
            compared["passed"] = False
        return compared

    monkeypatch.setattr(certify, "load", lambda bundle, backend: fake_model(TELLING)[0])
    monkeypatch.setattr(certify, "compare_models", flipped)
    passes = passes_on in OTHER_PHANTOMS
    with nullcontext() if passes else pytest.raises(Mismatch):
        certify.main([*SHORT, "--backend", "openvino"])
    captured = capsys.readouterr()
    (certificate,) = json.loads(captured.out)["certificates"]
    assert seeds == [0, *(seed for seed in OTHER_PHANTOMS if seed <= passes_on)]
    assert certificate["passed"] is passes
    click = certificate["propagation"]["click"]
    assert click["first_different_decision"]["slice"] == 2  # what was found first is told, too
    assert click["passed"] is click["another_phantom"]["passed"] is passes
    told = "openvino: FAILED, click: 7 pixels on the other side of zero, object 1, slice 2, "
    assert (told in captured.err) is not passes


def test_what_does_worse_on_another_phantom_is_asked_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []

    def worse(*asked: Any) -> dict[str, Any]:
        seeds.append(asked[5])
        compared: dict[str, Any] = compare_models(*asked)
        parted = {"passed": False, **({"lowest_dice": 0.9} if asked[5] == 1 else {})}
        compared["propagation"]["click"] |= parted if asked[5] < 2 else {}
        return compared | {"passed": asked[5] == 2}

    monkeypatch.setattr(certify, "load", lambda bundle, backend: fake_model(TELLING)[0])
    monkeypatch.setattr(certify, "compare_models", worse)
    with pytest.raises(Mismatch):
        certify.main([*SHORT, "--backend", "openvino"])
    assert seeds == [0, 1]


@pytest.mark.parametrize("found", ["2", "-1", "100001", "1" + "0" * 20])
def test_a_propagation_needs_slices_that_can_be_counted(found: str) -> None:
    with pytest.raises(InputError, match=f"found --slices {found}; wanted 3 or more"):
        certify.main(["--slices", found])
