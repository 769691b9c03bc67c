from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export import verify as verification
from export.checkpoints import checkpoint as checkpoints
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.torch_backend import torch_model
from export.variants import VARIANTS
from runtime.backends import open_backend
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.errors import (
    BackendUnavailable,
    CheckpointError,
    InputError,
    Mismatch,
    Sam2Error,
)
from runtime.measure.parity import TOLERANCES
from runtime.measure.parting import OTHER_PHANTOMS
from tests.export.test_conditioning import FLIP, PARTED, again, compared
from tests.variants import TOY

SLICES = ["--slices", "4"]


@pytest.fixture(autouse=True)
def toy_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of checkpoints it is all there is: others have tests that tell it from every released network."""
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    monkeypatch.setattr(checkpoints, "VARIANTS", {TOY.name: TOY})


@pytest.fixture
def certified(toy_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of random weights that knows its seed and what they were."""
    return Path(shutil.copytree(toy_bundle.path, tmp_path / "toy"))


def test_a_propagation_too_short_for_two_directions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found --slices 2; wanted 3 or more"):
        verification.main([str(tmp_path), "--slices", "2"])


def test_where_a_certificate_cannot_go_is_told_before_the_work(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a bundle that may only be read, for which -o names another place."""
    monkeypatch.setattr(verification, "reference_for", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(InputError, match="is not a folder"):
        verification.main([str(toy_bundle.path), "-o", str(tmp_path / "absent" / "c.json")])


def test_a_certificate_that_finds_no_room_is_told_all_the_same(
    toy_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(certificate: object, path: Path) -> None:
        raise Sam2Error(f"{path} could not be written: No space left on device")

    monkeypatch.setattr(verification, "reference_for", lambda *_: None)
    monkeypatch.setattr(verification, "verify", lambda *_: {"passed": True})
    monkeypatch.setattr(verification, "write", full)
    with pytest.raises(Sam2Error, match="No space left"):
        verification.main([str(toy_bundle.path), "-o", str(tmp_path / "c.json")])
    assert json.loads(capsys.readouterr().out) == {"passed": True}


def test_a_true_bundle_gets_its_certificate(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "certificate.json"
    out.parent.mkdir()
    verification.main([str(certified), *SLICES, "-o", str(out)])
    certificate = json.loads(out.read_text())
    assert certificate == json.loads(capsys.readouterr().out)
    assert certificate["passed"]
    assert set(certificate["graphs"]) == {
        "image_encoder",
        "memory_attention",
        "mask_decoder",
        "memory_encoder",
    }
    for outputs in certificate["graphs"].values():
        assert all(0 <= row["relative_error"] <= row["tolerance"] for row in outputs.values())
    steps = certificate["graphs"]["memory_attention"]["conditioned_features"]["runs"]
    whole = 3 * 2  # three tasks over three slices, two of which are tracked
    batch = 3 + 1 + 2  # a batch, a correction of what it found, and two objects again
    memory = 7  # ten slices, three of them prompted
    images = 3
    assert steps == 2 * (whole + batch + memory + images), (
        "every step, also of the free propagation"
    )
    two = certificate["propagation"]["two boxes, clicks"]
    assert two["slices"] == 8 and two["lowest_dice"] == 1.0
    assert two["first_different_decision"] is None
    assert [file.name for file in out.parent.iterdir()] == ["certificate.json"]


def test_what_does_not_pass_in_fp32_is_weighed_with_float64(
    toy, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def compare(bundle, backend, reference, candidate, num_slices):
        asked.append((reference.backend.description[-4:], candidate.backend.description[-4:]))
        return {"passed": passes, "graphs": {}, "propagation": {}}

    monkeypatch.setattr(verification, "compare", compare)
    monkeypatch.setattr(verification, "load", lambda bundle, backend: torch_model(toy))
    monkeypatch.setattr(
        verification, "weighed", lambda found, own: {**found, "passed": True, "weighed": 1}
    )
    passes = True
    assert "weighed" not in verification.verify(toy_bundle, toy, "ort", 3) and len(asked) == 1
    passes = False
    assert verification.verify(toy_bundle, toy, "ort", 3)["weighed"]
    assert asked[1:] == [("fp32", "fp32"), ("fp64", "fp32"), ("fp64", "fp32")]
    assert not verification.verify(toy_bundle, toy, "openvino-bf16", 3)["passed"]
    assert len(asked) == 5


def test_a_bundle_of_other_weights_fails_and_says_where(
    toy, certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: value.clone() for name, value in toy.state_dict().items()}
    state["sam_mask_decoder.iou_token.weight"] += 0.05
    toy_copy = type(toy)(TOY)
    toy_copy.load_state_dict(state)
    monkeypatch.setattr(verification, "reference_for", lambda *_: toy_copy)
    with pytest.raises(Mismatch) as error:
        verification.main([str(certified), *SLICES])
    assert error.value.exit_code == 1
    certificate = json.loads((certified / "certificate-ort.json").read_text())
    assert not certificate["passed"]
    assert all(row["passed"] for row in certificate["graphs"]["image_encoder"].values())
    assert not all(row["passed"] for row in certificate["graphs"]["mask_decoder"].values())


def test_random_weights_of_another_recipe_are_recognised(
    certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "export.random_weights.random_state", lambda model, seed: random_state(model, seed + 1)
    )
    with pytest.raises(CheckpointError, match="another version"):
        verification.main([str(certified), *SLICES])


def test_a_checkpoint_must_be_the_one_the_bundle_came_from(
    toy, certified: Path, tmp_path: Path
) -> None:
    file = tmp_path / "toy.pt"
    torch.save({"model": toy.state_dict()}, file)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        verification.main([str(certified), "--checkpoint", str(file)])


@pytest.mark.parametrize("change", [{"seed": None}, {"name": "unheard of"}])
def test_random_weights_that_cannot_be_made_again_are_refused(
    change: dict[str, str | None], certified: Path
) -> None:
    bundle = open_bundle(certified)
    if "seed" in change:
        weights = {key: value for key, value in bundle.weights.items() if key != "seed"}
        bundle = replace(bundle, weights=weights)
    else:
        bundle = replace(bundle, model=replace(bundle.model, **change))
    with pytest.raises(CheckpointError, match="export it again"):
        verification.reference_for(bundle, None)


def test_the_set_of_weights_that_was_exported_is_the_reference(
    toy, certified: Path, tmp_path: Path
) -> None:
    file, ema = tmp_path / "toy.pt", {k: v / 2 for k, v in toy.state_dict().items()}
    torch.save({"model": toy.state_dict(), "ema": ema}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    weights = {"kind": "checkpoint", "source": "toy.pt", "sha256": digest, "entry": "ema"}
    model = verification.reference_for(replace(open_bundle(certified), weights=weights), str(file))
    assert torch.equal(model.no_obj_ptr, ema["no_obj_ptr"])


def test_a_bundle_of_a_checkpoint_wants_it_named() -> None:
    bundle = open_bundle()
    with pytest.raises(CheckpointError, match="--checkpoint"):
        verification.reference_for(bundle, None)


def test_a_back_end_in_bf16_is_held_to_what_bf16_can_do(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        open_backend("openvino-bf16", open_bundle(certified)).load("image_encoder")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    out = tmp_path / "certificate.json"
    with suppress(Mismatch):  # random weights need not survive it
        verification.main([str(certified), *SLICES, "--backend", "openvino-bf16", "-o", str(out)])
    certificate = json.loads(out.read_text())
    encoder = certificate["graphs"]["image_encoder"]["vision_features"]
    assert certificate["precision"] == "bf16" and encoder["passed"]
    assert encoder["relative_error"] > TOLERANCES["fp32"], "it does compute in bf16"


@pytest.mark.parametrize(("second", "passes"), [(again(), True), (again(passed=False), False)])
def test_what_parts_as_pytorch_does_elsewhere_is_asked_on_another_phantom(
    second: dict[str, Any],
    passes: bool,
    toy: Sam2,
    toy_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, own = compared(1e-6, 10 * FLIP, **PARTED), compared(1e-7, 1e-5)
    for run, error in ((found, 1e-5), (own, FLIP)):
        run["propagation"]["mask"] = compared(0, error)["propagation"]["click"]
    answers, seeds = iter([compared(1e-6), found, own, second]), []

    def answer(*asked: Any) -> dict[str, Any]:
        seeds.append(asked[5] if len(asked) > 5 else 0)
        return next(answers)

    monkeypatch.setattr(verification, "compare", answer)
    certificate = verification.verify(toy_bundle, toy, "ort", 4)
    assert seeds == [0, 0, 0, OTHER_PHANTOMS[0]]
    assert certificate["passed"] is passes
