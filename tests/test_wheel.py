"""The wheel and the source distribution hold what they should, and the wheel runs where nothing else of ours is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.bundle.bundle import EMBEDDED
from runtime.measure.phantom import make_phantom

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "runtime", "export", "benchmarks", "docs", "examples")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building writes beside its sources."""
    folder = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "results", "nano.pt", "log.jsonl")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment with the wheel in it; packages of others are the tests' own."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    options = ["install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, *options, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(program: Path, *words: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(program), *words], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_wheel_holds_everything_that_is_read_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"runtime/py.typed", "kernels/py.typed", "runtime/jobs/report.schema.json"}
    wanted |= {f"runtime/nano/{file.name}" for file in EMBEDDED.iterdir()}
    page = ROOT / "runtime" / "serve" / "page"
    wanted |= {f"runtime/serve/page/{file.name}" for file in page.iterdir()}
    wanted |= {f"kernels/{file.name}" for file in (ROOT / "kernels").glob("*.cu*")}
    for floor in ("kernels", "runtime", "export", "benchmarks"):
        wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / floor).rglob("*.py")}
    assert not wanted - names
    licences = {name.split("/")[-1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert {name.split("/")[0] for name in names if "dist-info" not in name} <= set(FOLDERS)


def test_the_source_distribution_has_what_the_wheel_is_made_of(
    source: Path, tmp_path: Path
) -> None:
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    words = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"LICENSE", "NOTICE", "CITATION.cff", "README.md", "pyproject.toml"} <= names
    assert {"runtime/py.typed", "runtime/nano/manifest.json", "kernels/mask.cu"} <= names


def test_the_installed_command_segments(clean: Path, tmp_path: Path) -> None:
    where = run(clean / "python", "-c", "import runtime; print(runtime.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(clean.parent)
    assert run(clean / "medsam2", "--version", cwd=tmp_path).split()[1] == runtime.__version__
    phantom = make_phantom((3, 64, 64), seed=3)
    np.savez(tmp_path / "phantom.npz", imgs=phantom.pixels, spacing=np.ones(3))
    box = phantom.box(1, 1)
    coordinates = ",".join(map(str, (1, *box.y, *box.x)))
    words = ["-i", "phantom.npz", "-o", "mask.nrrd", "--box", coordinates]
    report = json.loads(run(clean / "medsam2", "segment", *words, cwd=tmp_path))
    assert report["objects"][0]["voxels"] > 0
    assert (tmp_path / "mask.nrrd").is_file()
