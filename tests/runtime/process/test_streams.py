"""Whatever becomes of the standard streams: the file is whole, nothing else gets its words, the exit code is true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from runtime.process.run import run_command; "
    "run_command('tests.tiny_command', sys.argv[1:])"
)
LOST = "error: the result could not be written to stdout"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such shell")


def run(
    folder: Path, redirected: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The tiny command writing to `there`, its streams redirected as a shell does it."""
    command = [sys.executable, "-c", CODE, "there", *arguments]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **variables},
    )


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        ("", 0, "tiny"),
        ("<&-", 0, "tiny"),
        (">&-", 1, f"{LOST} (Bad file descriptor)"),
        ("2>&-", 0, ""),
        ("<&- 2>&-", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
        (">/dev/full", 1, f"{LOST} (No space left on device)"),
        ("2>/dev/full", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_the_file_is_whole_and_the_exit_code_true(
    redirected: str, code: int, says: str, tmp_path: Path
) -> None:
    done = run(tmp_path, redirected, PYTHONWARNINGS="error")
    assert (tmp_path / "there").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stdout == "" or json.loads(done.stdout) == {"mask": "there"}


@pytest.mark.parametrize("arguments", [(), ("table",)])
def test_a_pipe_that_nobody_reads_is_a_failure(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import os; os.read(0, 1)\n{CODE}", "there"]
    with subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("x")
        process.stdin.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(f"{LOST} (Broken pipe)")
    assert (tmp_path / "there").read_text() == "whole"


def test_a_program_without_stderr_gets_no_words_of_ours_on_its_stdout(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runtime; runtime.load()"
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_help_that_cannot_be_shown_is_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.segment", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{LOST} (No space left on device)")


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
    ids=str,
)
def test_any_encoding_will_do(variables: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, "there", "table"],
        capture_output=True,
        cwd=tmp_path,
        env=variables,
    )
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    assert done.returncode == 0
    _, result = done.stdout.decode(encoding).splitlines()
    assert json.loads(result) == {"mask": "there"}
    assert b"a library prints" in done.stderr
    assert b"umlaut" in done.stderr or encoding == "utf-16"
    assert b"Traceback" not in done.stderr
