"""What is kept between runs, and which back end "auto" takes because of it."""

from __future__ import annotations

import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import EMBEDDED, Bundle, open_bundle
from runtime.cache import VARIABLE
from runtime.certificate import Choice, choose, keep, stamp, write
from runtime.machine import machine_name
from runtime.model import load

FAST, FASTER = "openvino", "openvino-bf16"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle()


def certificate(
    bundle: Bundle, backend: str = FAST, times: float = 1.5, **changed: Any
) -> dict[str, Any]:
    found = {**stamp(bundle, backend), "passed": True, "times_reference": times}
    return {**found, **changed}


def test_nothing_is_kept_where_the_variable_says_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert keep(certificate(bundle), bundle) is None
    assert choose(bundle).backend == "ort"


def test_a_certificate_that_cannot_be_kept_is_no_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.atomic.os.fsync", full)
    assert keep(certificate(bundle), bundle) is None
    assert "No space left" in caplog.text


@pytest.mark.parametrize("backend", ["ort", FAST, FASTER])
def test_a_certificate_holds_for_graphs_a_package_and_a_machine(
    backend: str, bundle: Bundle
) -> None:
    package = "onnxruntime" if backend == "ort" else "openvino"
    assert stamp(bundle, backend) == {
        "backend": backend,
        "package": f"{package} {version(package)}",
        "fingerprint": bundle.fingerprint,
        "machine": machine_name(),
    }


def test_a_certificate_replaces_the_one_before_and_leaves_nothing_else(bundle: Bundle) -> None:
    keep(certificate(bundle, times=1.5), bundle)
    path = keep(certificate(bundle, times=1.25), bundle)
    assert path is not None and json.loads(path.read_text())["times_reference"] == 1.25
    assert [file.name for file in path.parent.iterdir()] == [f"{FAST}.json"]


def test_without_certificates_it_is_onnx_runtime_and_how_to_make_them_is_said(
    bundle: Bundle,
) -> None:
    choice = choose(bundle)
    assert choice.backend == "ort" and "python -m runtime.certify" in choice.reason


def test_the_fastest_that_is_certified_is_taken_and_by_how_much_is_said(bundle: Bundle) -> None:
    keep(certificate(bundle, FAST, 1.2), bundle)
    assert choose(bundle).backend == FAST
    keep(certificate(bundle, FASTER, 1.7), bundle)
    choice = choose(bundle)
    assert choice.backend == FASTER and "1.70 times as fast as ort" in choice.reason


@pytest.mark.parametrize("times", [0.5, 1.0])
def test_what_is_no_faster_is_not_taken(times: float, bundle: Bundle) -> None:
    keep(certificate(bundle, FAST, times), bundle)
    assert choose(bundle) == Choice("ort", f"faster here than {FAST}")


def test_all_that_are_no_faster_are_named(bundle: Bundle) -> None:
    keep(certificate(bundle, FASTER, 0.9), bundle)
    keep(certificate(bundle, FAST, 0.8), bundle)
    assert choose(bundle) == Choice("ort", f"faster here than {FAST}, {FASTER}")


def test_what_failed_is_not_taken_however_fast(bundle: Bundle) -> None:
    keep(certificate(bundle, FASTER, 9.0, passed=False), bundle)
    assert choose(bundle) == Choice("ort", f"{FASTER} failed the certificate")
    keep(certificate(bundle, FAST, 1.1), bundle)
    assert choose(bundle).backend == FAST


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "0" * 64},
        {"machine": "Abacus, 10 beads"},
        {"package": "openvino 1.0"},
        {"backend": FASTER},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_certificate_of_something_else_is_passed_over(
    changed: dict[str, str], bundle: Bundle
) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None and choose(bundle).backend == FAST
    path.write_text(json.dumps(certificate(bundle, **changed)))
    assert choose(bundle).backend == "ort"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"backend": "openvino"}'])
def test_a_damaged_certificate_is_passed_over(text: str, bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None
    path.write_text(text)
    assert choose(bundle).backend == "ort"


def test_one_without_a_verdict_is_passed_over(bundle: Bundle) -> None:
    undecided = certificate(bundle)
    del undecided["passed"]
    keep(undecided, bundle)
    assert choose(bundle).backend == "ort"


def test_failing_against_pytorch_outweighs_passing_against_onnx_runtime(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    path = toy_bundle.path / f"certificate-{FAST}.json"
    keep(certificate(toy_bundle), toy_bundle)
    assert choose(toy_bundle).backend == FAST
    try:
        path.write_text(json.dumps({**stamp(toy_bundle, FAST), "passed": False}))
        assert choose(toy_bundle).backend == "ort"
        path.write_text(json.dumps({**stamp(toy_bundle, FAST), "passed": True}))
        assert choose(toy_bundle).backend == FAST
    finally:
        path.unlink()


@pytest.mark.parametrize("in_bundle", [True, False])
def test_one_failure_outweighs_a_pass_wherever_the_two_lie(in_bundle: bool, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(EMBEDDED, tmp_path / "bundle"))
    write(certificate(bundle, passed=in_bundle), bundle.path / f"certificate-{FAST}.json")
    keep(certificate(bundle, passed=not in_bundle), bundle)
    assert choose(bundle) == Choice("ort", f"{FAST} failed the certificate")


def test_a_model_is_opened_on_what_was_chosen_and_the_log_says_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    keep(certificate(bundle), bundle)
    with caplog.at_level(logging.INFO, "runtime"):
        assert load(bundle).backend.description.startswith("OpenVINO")
        assert load(bundle, "ort").backend.description.startswith("ONNX Runtime")
    assert "1.50 times as fast as ort" in caplog.messages[0]
    assert "asked for" in caplog.messages[1]
