from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export.__main__ import main
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import VARIANTS
from runtime.bundle.bundle import open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.bundle.manifest import CAUTIONS
from runtime.process.run import outcome
from tests.variants import TOY

SMALL = {
    "medsam2": replace(TOY, name="medsam2"),
    "sam2_hiera_t": replace(TOY, name="sam2_hiera_t", is_2_1=False),
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process, with small networks and without the tracer."""
    for module in ("export.__main__", "export.checkpoints.checkpoint"):
        monkeypatch.setattr(f"{module}.VARIANTS", SMALL)
    monkeypatch.setattr(
        "export.write_bundle.to_onnx", lambda *_: onnx.ModelProto(producer_name="stub")
    )

    def run(*arguments: object) -> Outcome:
        code = outcome(lambda: main([str(a) for a in arguments]))
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "MedSAM2_latest.pt"
    torch.save({"model": random_state(Sam2(SMALL["medsam2"]), seed=1)}, path)
    return path


def test_help_shows_examples_and_needs_no_weights() -> None:
    command = [sys.executable, "-m", "export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "hf:wanglab/MedSAM2/MedSAM2_latest.pt" in done.stdout
    assert done.stderr == ""


def test_the_models_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list-models"])
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == list(VARIANTS)
    assert listed["medsam2"] == {"image_size": 512, "blocks": 12, "channels": 96}


def test_a_checkpoint_becomes_a_bundle_and_one_line_of_json(
    export: Any, checkpoint: Path, tmp_path: Path
) -> None:
    done = export("--checkpoint", checkpoint, "-o", tmp_path / "medsam2")
    assert done.code == 0
    report = json.loads(done.out)
    bundle = open_bundle(report["bundle"])
    assert bundle.path == tmp_path / "medsam2"
    assert (report["model"], report["image_size"]) == ("medsam2", 128)
    assert report["size_bytes"] == sum(f.stat().st_size for f in bundle.path.iterdir())
    assert bundle.weights["kind"] == "checkpoint"
    assert bundle.weights["source"] == "MedSAM2_latest.pt"
    assert "not for clinical use" not in done.err
    assert all(graph in done.err for graph in GRAPHS)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert report["weights"]["sha256"] == bundle.weights["sha256"] == digest


@pytest.mark.parametrize("file_name", ["MedSAM2_latest.pt", "sam2_hiera_t.pt"])
def test_the_licence_is_what_was_said_or_unknown_whatever_the_model(
    file_name: str, export: Any, tmp_path: Path
) -> None:
    row = "medsam2" if file_name.startswith("Med") else "sam2_hiera_t"
    path = tmp_path / file_name
    torch.save({"model": random_state(Sam2(SMALL[row]), seed=1)}, path)
    done = export("--checkpoint", path, "-o", tmp_path / "silent")
    assert json.loads(done.out)["licence"] == open_bundle(tmp_path / "silent").licence == "unknown"
    assert "--licence NAME says it" in done.err
    done = export("--checkpoint", path, "--licence", "CC-BY-SA-4.0", "-o", tmp_path / "said")
    assert (
        json.loads(done.out)["licence"] == open_bundle(tmp_path / "said").licence == "CC-BY-SA-4.0"
    )
    assert "--licence" not in done.err


def test_one_of_several_sets_of_weights_is_exported(export: Any, tmp_path: Path) -> None:
    path, states = tmp_path / "medsam2.pt", {}
    for seed, entry in enumerate(("model", "ema")):
        states[entry] = random_state(Sam2(SMALL["medsam2"]), seed)
    torch.save(states, path)
    done = export("--checkpoint", path, "-o", tmp_path / "bundle")
    assert done.code == 3
    assert "--entry with one of 'model', 'ema'" in done.err
    assert export("--checkpoint", path, "--entry", "ema", "-o", tmp_path / "bundle").code == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.weights["entry"] == "ema"
    found = bundle.manifest["constants"]["no_obj_ptr"]
    assert torch.equal(torch.tensor(found), states["ema"]["no_obj_ptr"][0])


def test_random_weights_are_named_with_their_seed_and_cautioned_about(
    export: Any, tmp_path: Path
) -> None:
    arguments = ("--model", "sam2_hiera_t", "--image-size", 96, "-o", tmp_path / "random")
    done = export("--random-weights", 0, *arguments)
    assert done.code == 0
    bundle = open_bundle(tmp_path / "random")
    assert (bundle.weights["kind"], bundle.weights["seed"]) == ("random", 0)
    assert (bundle.model.name, bundle.model.image_size) == ("sam2_hiera_t", 96)
    assert bundle.licence == "unknown"
    assert CAUTIONS["random"] in done.err


def test_demonstration_weights_are_cautioned_about(
    export: Any, checkpoint: Path, tmp_path: Path
) -> None:
    done = export(
        "--checkpoint", checkpoint, "--weights-kind", "demonstration", "-o", tmp_path / "demo"
    )
    assert done.code == 0
    assert CAUTIONS["demonstration"] in done.err
    assert open_bundle(tmp_path / "demo").caution == CAUTIONS["demonstration"]


def test_a_missing_file_is_one_line_and_exit_3(export: Any, tmp_path: Path) -> None:
    done = export("--checkpoint", tmp_path / "nowhere.pt", "-o", tmp_path / "bundle")
    assert (done.code, done.out) == (3, "")
    assert done.err == f"error: no checkpoint at {tmp_path / 'nowhere.pt'}: it is no file\n"
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_that_cannot_be_read_is_exit_3(export: Any, tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>")
    done = export("--checkpoint", tmp_path / "page.pt", "-o", tmp_path / "bundle")
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_an_output_that_exists_is_exit_3_before_anything_is_read(
    export: Any, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    done = export("--checkpoint", tmp_path / "nowhere.pt", "-o", tmp_path / "taken")
    assert done.code == 3
    assert "exists and is not a bundle" in done.err


def test_a_bundle_is_replaced_with_overwrite_only(
    export: Any, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("--checkpoint", checkpoint, "-o", tmp_path / "bundle")
    assert export(*arguments).code == 0
    refused = export(*arguments)
    assert refused.code == 3
    assert "--overwrite" in refused.err
    assert export(*arguments, "--image-size", 64, "--overwrite").code == 0
    assert open_bundle(tmp_path / "bundle").model.image_size == 64


@pytest.mark.parametrize("size", [100, 32, 0, -64])
def test_an_image_size_that_does_not_divide_is_exit_3(
    size: int, export: Any, checkpoint: Path, tmp_path: Path
) -> None:
    done = export("--checkpoint", checkpoint, f"--image-size={size}", "-o", tmp_path / "bundle")
    assert done.code == 3
    assert f"image size {size} is not a multiple of 32" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "a.pt", "--random-weights", "0", "-o", "b"], "not allowed with"),
        (["-o", "b"], "required"),
        ([], "required"),
        (["--checkpoint", "a.pt"], "-o BUNDLE is needed"),
        (["--random-weights", "0", "-o", "b"], "needs --model"),
        (["--random-weights", "zero", "-o", "b"], "found 'zero'; wanted an integer from 0"),
        (["--random-weights", str(2**63), "-o", "b"], "wanted an integer from 0"),
        (["--checkpoint", "a.pt", "--licence", "", "-o", "b"], "wanted a line"),
        (["--checkpoint", "a.pt", "--licence", "a\nb", "-o", "b"], "wanted a line"),
        (
            ["--checkpoint", "a.pt", "--max-dice-drop", "nan", "-o", "b"],
            "wanted a number from 0 to 1",
        ),
        (["--checkpoint", "a.pt", "--model", "sam3", "-o", "b"], "invalid choice: 'sam3'"),
        (["--checkpoint", "a.pt", "--weights-kind", "random", "-o", "b"], "invalid choice"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_why(arguments: list[str], said: str, export: Any) -> None:
    done = export(*arguments)
    assert done.code == 2
    assert said in done.err
