"""Exit codes and streams of a command's process."""

from __future__ import annotations

import ast
import errno
import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import runtime
from runtime.errors import (
    BackendUnavailable,
    BundleError,
    InputError,
    Mismatch,
    OutOfMemory,
    PromptError,
    Sam2Error,
)
from runtime.process.run import QUIET, Signals, _run, outcome
from runtime.process.shortage import is_out_of_memory
from runtime.process.streams import print_result

ROOT = Path(__file__).parents[3]
DOORS = [
    path
    for floor in ("runtime", "export", "benchmarks")
    for path in sorted((ROOT / floor).rglob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text("utf-8")
    and path != ROOT / "benchmarks" / "fuzz" / "worker.py"  # a part of another process
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_packages_do_not_tell_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=lambda arguments: None))
    _run("a_command", [], Signals())
    assert logging.getLogger("dicomweb_client.web").getEffectiveLevel() == logging.ERROR


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Sam2Error("no"), 1, "error: no"),
        (Mismatch("no"), 1, "error: no"),
        (PromptError("no"), 3, "error: no"),
        (BundleError("no"), 4, "error: no"),
        (BackendUnavailable("no"), 5, "error: no"),
        (OutOfMemory("no"), 6, "error: no"),
        (MemoryError(), 6, "error: out of memory: MemoryError"),
        (OSError(errno.ENOSPC, "full", "f"), 1, "error: [Errno 28] full: 'f'"),
        (OSError(errno.ENAMETOOLONG, "long", "f"), 3, "error: [Errno 36] long: 'f'"),
        (OSError(errno.ENOENT, "gone"), 3, "error: [Errno 2] gone (is this folder still there?)"),
        (OSError(errno.ENOMEM, "x"), 6, "error: out of memory: [Errno 12] x"),
        (RuntimeError("std::bad_alloc"), 6, "error: out of memory: std::bad_alloc"),
        (SystemExit(2), 2, ""),
        (SystemExit(), 0, ""),
        (SystemExit("why"), 1, "why"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert outcome(fail) == code
    assert capsys.readouterr() == ("", words and words + "\n")


def test_a_lack_of_threads_is_told_with_how_to_have_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    assert outcome(fail) == 6
    said = capsys.readouterr().err
    assert said.startswith("error: no further thread could be started") and "ulimit -u" in said


def test_what_nobody_foresaw_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(lambda: {}["nothing"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_nobody_foresaw_is_a_lack_of_memory_where_hardly_any_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.process.run.is_tight", lambda: True)
    assert outcome(lambda: {}["nothing"]) == OutOfMemory.exit_code
    assert capsys.readouterr().err == "error: out of memory: KeyError: 'nothing'\n"


def test_an_interrupt_counts_whatever_a_library_has_made_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    signals = Signals()

    def fail() -> None:
        signals.is_working = True
        try:
            signals._handle(15, None)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    assert outcome(fail, signals) == 128 + 15
    assert capsys.readouterr().err == "interrupted\n"


def test_an_import_is_not_interrupted_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries in C++ abort when one is raised while they are set up."""
    (tmp_path / "module_that_is_interrupted.py").write_text("import builtins; builtins.interrupt()")
    monkeypatch.syspath_prepend(tmp_path)
    signals, left = Signals(), []
    signals.is_working = True
    monkeypatch.setattr(signals, "_leave", lambda: left.append(signals.code))
    monkeypatch.setattr(
        "builtins.interrupt", lambda: signals._handle(2, sys._getframe()), raising=False
    )
    import_module("module_that_is_interrupted")
    assert left == [130]
    signals.came = None
    with pytest.raises(KeyboardInterrupt):
        signals._handle(2, sys._getframe())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such children")
def test_a_child_that_has_inherited_the_handlers_ends_as_any_other(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\nfrom runtime.files.atomic import write_whole\n"
        "from runtime.process.run import Signals\n"
        "signals = Signals(); signals.install(); signals.is_working = True\n"
        "def write(part):\n"
        "    if not (child := os.fork()):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    print(os.waitpid(child, 0)[1]); part.write_text('whole')\n"
        f"write_whole({str(tmp_path / 'there')!r}, write)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("15\n", "")
    assert (tmp_path / "there").read_text() == "whole"


def test_a_process_that_is_ended_at_once_leaves_no_unfinished_files(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom runtime.files.atomic import write_whole\n"
        "from runtime.files.atomic_folder import write_whole_folder\n"
        "from runtime.process.run import Signals\n"
        "signals = Signals(); signals.install()\n"
        "def write(part): (part / 'a').write_text('half'); write_whole('file', end)\n"
        "def end(part): part.write_text('half'); signal.raise_signal(signal.SIGINT)\n"
        "write_whole_folder('folder', write, print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "is_shortage"),
    [
        (raised(BundleError("refused"), RuntimeError("std::bad_alloc")), True),
        (raised(InputError("unreadable"), MemoryError()), True),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (raised(BundleError("refused"), RuntimeError("unknown operator")), False),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/out of memory/ct.nii"), False),
        (raised(InputError("'bad_alloc'"), ValueError("found 'bad_alloc'")), False),
    ],
    ids=repr,
)
def test_a_lack_of_memory_is_known_by_its_words(error: BaseException, is_shortage: bool) -> None:
    assert is_out_of_memory(error) is is_shortage


def test_a_lack_of_memory_behind_another_error_decides(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BundleError("refused") from RuntimeError("std::bad_alloc")

    assert outcome(fail) == OutOfMemory.exit_code
    assert capsys.readouterr().err == "error: out of memory: std::bad_alloc\n"


def test_a_result_is_json_for_every_parser(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"mask": os.fsdecode(b"\xff\xc3\xa9.nii"), "times": float("inf"), "z": (1, 2.5)})
    assert (
        capsys.readouterr().out == '{"mask": "\\\\xff\\u00e9.nii", "times": null, "z": [1, 2.5]}\n'
    )


@pytest.mark.parametrize("path", DOORS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_door_is_ready_for_interrupts_before_it_imports_anything(path: Path) -> None:
    docstring, future, first = ast.parse(path.read_text("utf-8")).body[:3]
    assert isinstance(docstring, ast.Expr) and ast.unparse(future) == (
        "from __future__ import annotations"
    )
    before, _, command = ast.unparse(first).rpartition("run_command")
    assert (
        before
        == "if __name__ == '__main__':\n    from runtime.process.run import run_command\n    "
    )
    assert f"run_command{command}" in (
        f"run_command('{module_of(path)}')",
        f"run_command('runtime.commands.{path.stem}')",
        f"run_command('runtime.commands.{path.parent.stem}')",
        f"run_command('benchmarks.training.{path.stem}')",
    )


def test_what_is_imported_first_takes_no_time() -> None:
    code = "import runtime.process.run, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert not {"numpy", "argparse", "logging"} & set(done.stdout.split())


def test_the_three_lists_of_public_names_agree() -> None:
    tree = ast.parse((ROOT / "runtime" / "__init__.py").read_text("utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == runtime.HOMES
    assert set(runtime.__all__) == homes.keys()
    assert set(runtime.__all__) <= set(dir(runtime))


def test_whatever_is_public_can_be_the_first_to_be_imported() -> None:
    names = [*sorted({*runtime.HOMES.values()}), *(module_of(p) for p in DOORS)]
    code = (
        "import importlib, os, sys\n"
        "import numpy, onnxruntime, PIL.Image, torch, tqdm\n"
        "for name in sys.argv[1:]:\n"
        "    if not (child := os.fork()):\n"
        "        importlib.import_module(name)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
    )
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=ROOT)
