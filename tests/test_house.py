"""Rules of the house: who may import whom, a runtime without torch, files of one noun, documents that are true."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime import Volume
from runtime.__main__ import PROGRAM
from runtime.io.volumes.itk import sitk
from runtime.measure.phantom import make_phantom
from tests.imports import circles, import_graph

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("kernels", "runtime", "export", "benchmarks")  # low to high
TORCH_FREE = ("kernels", "runtime")
# Rooms of the runtime, and what stands in its root, low to high.
ROOMS = (
    *("errors", "version", "process", "files", "bundle", "io", "prompts", "devices", "memory"),
    *(
        "steps",
        "backends",
        "model",
        "track",
        "predictors",
        "preview",
        "measure",
        "jobs",
        "cohort",
        "serve",
    ),
    *("commands", "segment", "bench", "build", "certify", "__main__"),
)
DOORS = ("segment", "bench", "build", "certify")
DOOR_BUDGET = 40  # lines
# Engines for TensorRT are made of rewritten graphs; who has no TensorRT needs no onnx.
NEED_ONNX = [
    ROOT / "runtime" / "backends" / "lowering" / f"{name}.py"
    for name in ("bundle_graph", "cut_graph", "typed_graph")
]
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
LINE_BUDGET = 300
STEP_BUDGET = 50  # lines: the heart fits one screen


def imported_roots(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    roots = set(imported_roots(path))
    assert not roots & {*FLOORS[FLOORS.index(floor) + 1 :], "tests"}
    if floor in TORCH_FREE:
        assert "torch" not in roots
        assert "onnx" not in roots or path in NEED_ONNX


def room_of(module: str) -> str:
    """The room of one of the runtime's modules; its package itself, which imports names when they are asked for, is a
    door too.
    """
    return [*module.split("."), "__main__"][1]


def test_rooms_import_lower_rooms_only() -> None:
    graph = import_graph(ROOT, ("runtime",))
    assert {room_of(module) for module in graph} == set(ROOMS)
    climbing = [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in targets
        if ROOMS.index(room_of(target)) > ROOMS.index(room_of(module))
    ]
    assert not climbing


def test_nobody_is_imported_by_what_he_imports() -> None:
    graph = import_graph(ROOT, FLOORS)
    assert graph["runtime.track"] >= {"runtime.model", "runtime.memory.batch"}
    assert circles(graph) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [["b", "c"]]


@pytest.mark.parametrize("name", DOORS)
def test_a_door_is_thin(name: str) -> None:
    path = ROOT / "runtime" / f"{name}.py"
    assert len(path.read_text("utf-8").splitlines()) < DOOR_BUDGET


def test_every_room_says_what_is_inside() -> None:
    silent = [
        str(path.parent.relative_to(ROOT))
        for floor in FLOORS
        for path in (ROOT / floor).rglob("__init__.py")
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent


def test_every_runtime_module_imports_without_torch() -> None:
    names = [m.name for m in pkgutil.walk_packages(runtime.__path__, "runtime.")]
    assert "runtime.commands.segment" in names and "runtime.commands.bench" in names
    absent = "torch", "onnx", "onnxscript", "pydicom", "nibabel", "scipy", "SimpleITK", "cuda"
    code = (
        "import sys, importlib\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, *names], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_noun(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LINE_BUDGET


def test_no_two_classes_have_one_name() -> None:
    files = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(path.relative_to(ROOT)))
    assert {"Model", "MemoryBank", "Kernel"} <= files.keys()
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}


def test_the_heart_fits_one_screen() -> None:
    tree = ast.parse((ROOT / "runtime" / "track.py").read_text("utf-8"))
    step = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "track_step")
    assert step.end_lineno is not None
    assert step.end_lineno - step.lineno < STEP_BUDGET


def test_public_functions_and_classes_say_what_they_do() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert not silent


def test_the_embedded_bundle_is_small_and_says_what_it_is() -> None:
    folder = ROOT / "runtime" / "nano"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 9e6
    code = "import runtime; runtime.load(); runtime.load()"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == ""
    assert done.stderr.count("not for clinical use") == 1
    assert "medsam2 export" in done.stderr


def test_the_readmes_first_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    volume = Volume.from_array(make_phantom((60, 300, 300)).pixels, (2.0, 0.7, 0.7))
    sitk.WriteImage(volume.to_image(), str(tmp_path / "ct.nii.gz"))
    run_in(tmp_path, blocks[0])
    mask = runtime.read_volume(tmp_path / "lesion.nii.gz")
    assert mask.shape == volume.shape
    assert mask.spacing_mm == pytest.approx(volume.spacing_mm)


def test_the_example_runs(tmp_path: Path) -> None:
    run_in(tmp_path, (ROOT / "examples" / "segment_phantom.py").read_text("utf-8"))
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"phantom_mask.nii.gz", "phantom.png"}


def test_the_example_of_a_session_runs(tmp_path: Path) -> None:
    code = (ROOT / "examples" / "click_in_a_session.py").read_text("utf-8")
    # On a busy machine the usual deadline answers with what there is.
    patient = code.replace(
        "InteractiveSession(load())", "InteractiveSession(load(), deadline_s=1e4)"
    )
    assert patient != code
    done = run_in(tmp_path, patient)
    values = [float(value) for value in re.findall(r"Dice ([\d.]+)", done)]
    assert len(values) == 2 and min(values) >= 0.9
    assert "taken back: 0 voxels" in done


def run_in(folder: Path, code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def test_commands_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for module in set(re.findall(r"python -m ([\w.]+)", text)) - {"pip", "json.tool"}:
        target = ROOT / Path(*module.split("."))
        assert target.with_suffix(".py").is_file() or (target / "__main__.py").is_file(), module
    assert set(re.findall(r"^medsam2 (\w+)", text, re.MULTILINE)) <= set(PROGRAM.commands)
    for target in set(re.findall(r"\bmake ([\w-]+)", text)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), (
            target
        )


def test_every_public_name_is_there() -> None:
    assert [name for name in runtime.__all__ if not hasattr(runtime, name)] == []


def test_the_map_names_what_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert len(text.splitlines()) <= 60, "a page"
    paths = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|md)|(?:\w+/)+)`", text))
    assert len(paths) > 20
    absent = [
        path
        for path in paths
        if not any((base / path).exists() for base in (ROOT, ROOT / "runtime"))
        and not any(ROOT.glob(f"*/**/{path}"))
    ]
    assert not absent
    drawing = text.split("```")[1]
    rooms = {room for room in ROOMS if (ROOT / "runtime" / room).is_dir()}
    assert rooms <= set(re.findall(r"(\w+)/", drawing)), "the drawing leaves a room out"
