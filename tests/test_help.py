"""Every command tells its options, and which package is missing, where only the core's packages are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.__main__
import runtime.__main__

ROOT = Path(__file__).resolve().parent.parent
NOT_CORE = (
    *(
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "scipy",
        "matplotlib",
        "av",
        "openvino",
        "pydicom",
    ),
    *("nibabel", "cuda", "tensorrt", "tensorrt_rtx", "huggingface_hub", "sam2", "hydra", "iopath"),
)
BARE = f"""
import runpy, sys
for name in {NOT_CORE}: sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
COMMANDS = [
    *(command.module for command in runtime.__main__.PROGRAM.commands.values()),
    *(f"benchmarks {name}" for name in benchmarks.__main__.PROGRAM.commands),
    "runtime",
    "benchmarks",
    "benchmarks.train_nano",
]


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    """A command, run where nothing but the core's packages can be imported."""
    command = [sys.executable, "-c", BARE, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extras(command: str) -> None:
    done = bare(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert "--help" in done.stdout


def test_models_are_listed_without_extras() -> None:
    done = bare("export", "--list-models")
    assert (done.returncode, done.stderr) == (0, "")
    assert "medsam2" in done.stdout


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("export --random-weights 0 --model sam2.1_hiera_t -o {new}", "onnx", "export"),
        ("export.verify runtime/nano --checkpoint x.pt", "torch", "export"),
        ("runtime export --checkpoint x.pt -o {new}", "onnx", "export"),
        ("runtime.bench --backend ort", "onnxruntime", "cpu"),
        ("runtime.certify", "onnxruntime", "cpu"),
        ("benchmarks rivals runtime/nano", "torch", "export"),
        ("benchmarks scaling --sweeps size", "torch", "export"),
        ("benchmarks ceilings", "torch", "export"),
        ("benchmarks roofline runtime/nano --tflops 1 --gb-s 1", "onnx", "export"),
        ("benchmarks gpu-check", "torch", "export"),
        ("benchmarks quality --phantoms 1", "scipy", "benchmarks"),
        ("benchmarks phantoms -o {new}", "scipy", "benchmarks"),
        ("benchmarks.train_nano --start x.pt -o {new}", "torch", "export"),
    ],
)
def test_a_missing_extra_is_named(command: str, package: str, extra: str, tmp_path: Path) -> None:
    done = bare(*command.format(new=tmp_path / "new").split())
    assert done.returncode == 5
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert last.startswith("error: ") and f"needs {package}" in last
    assert f"pip install 'medsam2-runtime[{extra}]'" in last
    assert not list(tmp_path.iterdir())
