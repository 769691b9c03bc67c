"""A rule of the house: whatever is written appears whole or not at all, so only `runtime.files` opens files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for floor in ("kernels", "runtime", "export", "benchmarks")
    for path in sorted((ROOT / floor).rglob("*.py"))
]
WRITING = {
    *("write_text", "write_bytes", "touch", "save", "savez", "savez_compressed", "savetxt"),
    *("tofile", "savefig", "WriteImage", "to_filename", "save_as", "copy", "copy2", "copyfile"),
    *("copytree", "move", "rename", "renames", "replace", "symlink_to", "hardlink_to"),
}
"""Methods and functions of modules that write; what is called so and writes nothing is told apart in `writes`."""
GIVEN = "part"
"""What `write_whole` gives to whoever writes: a call is right where the path is a parameter of that name."""
ELSEWHERE = {
    "runtime/files/atomic.py": "the one place",
    "runtime/files/atomic_folder.py": "the same for folders",
    "runtime/io/dicom/codestream.py": "a temporary folder, for a decoder that reads only files",
    "runtime/io/dicom/web.py": "a temporary folder, for readers that read only files",
    "runtime/process/streams.py": "/dev/null in place of a closed stream",
    "runtime/serve/received_files.py": "a temporary folder, for readers that read only files",
    "export/write_bundle.py": "into the new folder that write_whole_folder gives",
    "export/quantise.py": "a temporary folder, for a quantiser that writes only files",
    "benchmarks/gpu/gpu_check.py": "a log that another process writes while it runs",
    "benchmarks/speed/cohort_faults.py": "a log that another process writes while it runs",
    "benchmarks/speed/cohort_studies.py": "damaged files, in a temporary folder",
    "runtime/cohort/alone.py": "a file that is locked and stays empty",
    "runtime/cohort/html.py": "into memory",
    "benchmarks/quality/quality_picture.py": "into memory",
    "benchmarks/training/trainer.py": "a log that grows line by line",
}
FOLDERS_ELSEWHERE = {"benchmarks/fuzz": "damaged files, in temporary folders"}


def writes(call: ast.Call) -> bool:
    """Whether a call is one of those that write, as far as its name and its arguments tell."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(call.func, "value", None)
    owned_by = owner.id if isinstance(owner, ast.Name) else ""
    if name in ("open", "fdopen"):
        if owned_by == "os" and name == "open":
            return any(flag in ast.unparse(call) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
        modes = [a for a in [*call.args, *(k.value for k in call.keywords)] if _is_mode(a)]
        return any(set("wax+") & set(mode.value) for mode in modes)
    if not isinstance(call.func, ast.Attribute):
        return False
    if name == "replace":  # a path's takes one argument, a text's two
        return owned_by == "os" or len(call.args) == 1
    if name == "copy":  # an array's or mapping's takes none
        return owned_by == "shutil"
    return name in WRITING


def _is_mode(argument: ast.expr) -> bool:
    if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
        return False
    return 0 < len(argument.value) <= 3 and set(argument.value) <= set("rwaxbt+")


def calls(node: ast.AST, given: frozenset[str] = frozenset()) -> Iterator[tuple[ast.Call, bool]]:
    """Calls that write, and whether each writes to what `write_whole` gave."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        given = frozenset(argument.arg for argument in node.args.args)
    if isinstance(node, ast.Call) and writes(node):
        owner = getattr(node.func, "value", None)
        where = [owner, *node.args]
        named = {each.id for each in where if isinstance(each, ast.Name)}
        yield node, GIVEN in given & named
    for child in ast.iter_child_nodes(node):
        yield from calls(child, given)


def test_only_one_place_opens_files_to_write() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if any(name.startswith(folder) for folder in FOLDERS_ELSEWHERE):
            continue
        for call, is_right in calls(ast.parse(path.read_text("utf-8"))):
            if not is_right:
                found.setdefault(name, []).append(f"{name}:{call.lineno} {ast.unparse(call)}")
    wrong = [line for name, lines in found.items() if name not in ELSEWHERE for line in lines]
    assert not wrong, "write with runtime.files.atomic"
    assert ELSEWHERE.keys() == found.keys(), "exceptions that are none any more"


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("open('file', 'w')", [False]),
        ("open('file', mode='xb')", [False]),
        ("open('file', 'rb')", []),
        ("path.open('r+b')", [False]),
        ("path.open()", []),
        ("av.open(path, 'w')", [False]),
        ("os.open(path, os.O_RDONLY)", []),
        ("os.open(path, os.O_WRONLY | os.O_CREAT)", [False]),
        ("os.replace(a, b)", [False]),
        ("part.replace(target)", [False]),
        ("text.replace('a', 'b')", []),
        ("array.copy()", []),
        ("shutil.copy(a, b)", [False]),
        ("path.write_text('x')", [False]),
        ("np.savez(path, a)", [False]),
        ("write_whole(path, lambda part: part.write_bytes(data))", [True]),
        ("write_whole(path, lambda part: np.save(part, a))", [True]),
        ("write_whole(path, lambda part: np.save(other, a))", [False]),
        ("def write(part): part.open('wb')", [True]),
        ("def write(other): part.open('wb')", [False]),
    ],
)
def test_the_rule_tells_writing_from_reading(code: str, right: list[bool]) -> None:
    assert [is_right for _, is_right in calls(ast.parse(code))] == right
