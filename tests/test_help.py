"""Every command tells its options, and which package is missing, where only the core's packages are installed."""

from __future__ import annotations

import json
import os
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
    *(
        "starlette",
        "uvicorn",
        "h11",
        "python_multipart",
        "blosc2",
        "ray",
        "pyarrow",
        "dicomweb_client",
        "requests",
    ),
)
BARE = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module

for name in {NOT_CORE}: sys.modules[name] = None
from runtime.process.run import outcome

told = {{}}
for words in json.loads(sys.argv[1]):
    module, *arguments = words.split()
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = outcome(lambda: import_module(module).main(arguments))
    told[words] = code, out.getvalue(), err.getvalue()
print(json.dumps(told))
"""
Outcome = tuple[int, str, str]
COMMANDS = [
    *(command.module for command in runtime.__main__.PROGRAM.commands.values()),
    *(f"benchmarks.__main__ {name}" for name in benchmarks.__main__.PROGRAM.commands),
    "runtime.__main__",
    "benchmarks.__main__",
    "benchmarks.training.train_nano",
]
MISSING = [
    ("export.__main__ --random-weights 0 --model sam2.1_hiera_t -o new", "onnx", "export"),
    ("export.verify runtime/nano --checkpoint x.pt", "torch", "export"),
    ("runtime.__main__ calibrate runtime/nano --folder new", "scipy", "benchmarks"),
    ("runtime.commands.bench --backend ort", "onnxruntime", "cpu"),
    ("runtime.commands.certify", "onnxruntime", "cpu"),
    ("runtime.commands.serve", "uvicorn", "serve"),
    ("runtime.commands.cohort -i runtime -o new", "pyarrow", "cohort"),
    ("benchmarks.__main__ rivals runtime/nano", "torch", "export"),
    ("benchmarks.__main__ scaling --sweeps size", "torch", "export"),
    ("benchmarks.__main__ scaling --picture p.png", "matplotlib", "benchmarks"),
    ("benchmarks.__main__ quality --picture p.png", "matplotlib", "benchmarks"),
    ("benchmarks.__main__ ceilings", "torch", "export"),
    ("benchmarks.__main__ cohort", "pyarrow", "cohort"),
    ("benchmarks.__main__ annotator", "matplotlib", "benchmarks"),
    ("benchmarks.__main__ roofline runtime/nano --tflops 1 --gb-s 1", "onnx", "export"),
    ("benchmarks.__main__ gpu-check", "torch", "export"),
    ("benchmarks.__main__ quality --phantoms 1", "scipy", "benchmarks"),
    ("benchmarks.__main__ phantoms -o new", "scipy", "benchmarks"),
    ("benchmarks.training.train_nano --start x.pt -o new", "torch", "export"),
]


def bare(commands: list[str], cwd: Path) -> dict[str, Outcome]:
    """Exit code, stdout and stderr of commands where nothing but the core's packages can be imported."""
    command = [sys.executable, "-c", BARE, json.dumps(commands)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=True)
    told: dict[str, Outcome] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def helps() -> dict[str, Outcome]:
    return bare([f"{command} --help" for command in COMMANDS], ROOT)


@pytest.fixture(scope="module")
def absences(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Outcome], Path]:
    """And the folder they ran in."""
    folder = tmp_path_factory.mktemp("absences")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "nano").symlink_to(ROOT / "runtime" / "nano")
    return bare([command for command, _, _ in MISSING], folder), folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extras(command: str, helps: dict[str, Outcome]) -> None:
    code, out, err = helps[f"{command} --help"]
    assert (code, err) == (0, "")
    assert out.startswith("usage: ")
    assert "--help" in out


@pytest.mark.parametrize(("command", "package", "extra"), MISSING)
def test_a_missing_extra_is_named(
    command: str, package: str, extra: str, absences: tuple[dict[str, Outcome], Path]
) -> None:
    told, folder = absences
    code, out, err = told[command]
    assert (code, out) == (5, "")
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("error: ") and f"needs {package}" in last
    assert f"pip install 'medsam2-runtime[{extra}]'" in last
    assert [path.name for path in folder.iterdir()] == ["runtime"]


def test_a_module_run_as_a_script_needs_no_extras_for_its_help() -> None:
    code = f"""import runpy, sys
for name in {NOT_CORE}: sys.modules[name] = None
sys.argv = ["verify", "--help"]
runpy.run_module("export.verify", run_name="__main__", alter_sys=True)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: medsam2 verify")
