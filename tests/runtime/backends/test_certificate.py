"""What is kept between runs, and which back end "auto" takes because of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import runtime
import runtime.backends.certificate
from kernels.kernel import FOLDER
from runtime.backends.certificate import (
    MAX_BYTES,
    Choice,
    choose,
    keep,
    kernels_digest,
    stamp,
    write,
)
from runtime.bundle.bundle import EMBEDDED, Bundle, open_bundle
from runtime.devices.machine import instruction_sets, machine_name
from runtime.files.cache import VARIABLE
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

    monkeypatch.setattr("runtime.files.atomic.os.fsync", full)
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
        "reference_package": f"onnxruntime {version('onnxruntime')}",
        "runtime": runtime.__version__,
        "kernels": kernels_digest(),
        "fingerprint": bundle.fingerprint,
        "weights_kind": "demonstration",
        "machine": machine_name(),
        "instructions": ", ".join(instruction_sets()),
    }


def test_every_source_of_a_kernel_counts_by_name_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "kernels"))
    monkeypatch.setattr(runtime.backends.certificate, "FOLDER", folder)

    def digest() -> str:
        return kernels_digest.__wrapped__()

    seen = [digest()]
    assert seen[0] == kernels_digest()
    (folder / "notes.txt").write_text("no source")
    assert digest() == seen[0]
    for name in ("memory_read.cu", "mma.cuh", "resize.py"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        seen.append(digest())
    (folder / "resize.py").rename(folder / "sizes.py")
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_a_certificate_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = write({"passed": True}, tmp_path / "certificate.json")
    with pytest.raises(ValueError, match="JSON"):
        write({"passed": True, "times_reference": float("nan")}, path)
    assert json.loads(path.read_text()) == {"passed": True}
    assert list(tmp_path.iterdir()) == [path]


def test_a_certificate_replaces_the_one_before_and_leaves_nothing_else(bundle: Bundle) -> None:
    keep(certificate(bundle, times=1.5), bundle)
    path = keep(certificate(bundle, times=1.25), bundle)
    assert path is not None and json.loads(path.read_text())["times_reference"] == 1.25
    assert [file.name for file in path.parent.iterdir()] == [f"{FAST}.json"]


def test_without_certificates_it_is_onnx_runtime_and_how_to_make_them_is_said(
    bundle: Bundle,
) -> None:
    choice = choose(bundle)
    assert choice.backend == "ort" and "medsam2 certify" in choice.reason


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
        {"weights_kind": "random"},
        {"machine": "Abacus, 10 beads"},
        {"package": "openvino 1.0"},
        {"reference_package": "onnxruntime 1.0"},
        {"runtime": "0.0.1"},
        {"kernels": "0" * 64},
        {"instructions": "Z80"},
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"x"',
        "{}",
        '{"backend": "openvino"}',
        "[" * 100_000,
        "\x00",
        "é",
    ],
    ids=repr,
)
def test_a_damaged_certificate_is_passed_over(text: str, bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None
    path.write_text(text, "latin-1")
    assert choose(bundle).backend == "ort"


ODD = ("abc", "2.0", True, None, [], [9.0], {}, -1, -0.5, 1e300, "NaN")


@pytest.mark.parametrize("odd", [*ODD, float("nan"), float("inf"), float("-inf")], ids=repr)
def test_a_speed_that_is_none_is_never_chosen(odd: Any, bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None and choose(bundle).backend == FAST
    path.write_text(json.dumps(certificate(bundle, times_reference=odd)))
    assert choose(bundle).backend == "ort"


@pytest.mark.parametrize("odd", ["true", "false", 1, 0, None, [True], {}, float("nan")], ids=repr)
def test_a_verdict_that_is_none_is_no_pass(odd: Any, bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None
    path.write_text(json.dumps(certificate(bundle, passed=odd)))
    assert choose(bundle).backend == "ort"


@pytest.mark.parametrize("field", list(stamp(open_bundle(), FAST)))
@pytest.mark.parametrize("odd", ["absent", None, 3, [], {}, float("nan")], ids=repr)
def test_a_stamp_that_is_none_holds_nowhere(field: str, odd: Any, bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None
    changed = {**certificate(bundle), field: odd}
    if odd == "absent":
        del changed[field]
    path.write_text(json.dumps(changed))
    assert choose(bundle).backend == "ort"


def test_a_certificate_that_is_no_plain_file_or_has_no_end_is_passed_over(bundle: Bundle) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole.ljust(MAX_BYTES))
    assert choose(bundle).backend == FAST
    path.write_bytes(whole.ljust(MAX_BYTES + 1))
    assert choose(bundle).backend == "ort"
    path.unlink()
    path.mkdir()
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


def test_what_came_with_a_bundle_refuses_a_back_end_and_never_chooses_one(tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(EMBEDDED, tmp_path / "bundle"))
    path = write(certificate(bundle, times=100.0), bundle.path / f"certificate-{FAST}.json")
    assert choose(bundle).backend == "ort"
    keep(certificate(bundle, times=1.2), bundle)
    assert choose(bundle).backend == FAST and "1.20 times" in choose(bundle).reason
    write(certificate(bundle, passed=False), path)
    assert choose(bundle).backend == "ort"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users have no numbers here")
def test_what_another_user_put_into_the_cache_chooses_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep(certificate(bundle), bundle)
    assert path is not None and choose(bundle).backend == FAST
    path.parent.chmod(0o755)
    foreign = os.stat_result([*path.stat()[:4], os.geteuid() + 1, *path.stat()[5:]])
    stat = Path.stat

    def stated(asked: Path, **others: Any) -> os.stat_result:
        return foreign if asked == path else stat(asked, **others)

    monkeypatch.setattr(Path, "stat", stated)
    assert choose(bundle).backend == "ort"


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
    first, second = (said for said in caplog.messages if " pixels on " in said)
    assert "1.50 times as fast as ort" in first and "asked for" in second
