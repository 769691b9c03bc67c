from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import benchmarks.__main__
import runtime.__main__
from runtime.__main__ import main
from runtime.process.subcommands import Program, Subcommand

ROOT = Path(__file__).parents[3]
PROGRAMS = [runtime.__main__.PROGRAM, benchmarks.__main__.PROGRAM]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_help_lists_every_command_and_each_is_there(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        program.run(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for name, command in program.commands.items():
        assert f"  {name} " in shown and command.summary in shown
        assert find_spec(command.module)


def test_a_command_gets_the_arguments_after_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["segment", "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: medsam2 segment ")


def test_an_unknown_command_is_a_usage_error_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given, wanted in {
        ("segmnet",): "did you mean segment? there are: segment, serve",
        ("x",): "no command 'x'; there are: segment",
        ("-i", "ct.nii"): "wanted a command before -i",
        (): "usage: medsam2 COMMAND",
    }.items():
        with pytest.raises(SystemExit) as left:
            main(list(given))
        assert left.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert wanted in shown.err


def test_a_module_is_imported_only_when_its_command_is_called() -> None:
    program = Program("p", "does", {"absent": Subcommand("runtime.absent", "nothing")})
    assert "absent" in program.help
    with pytest.raises(ModuleNotFoundError):
        program.run(["absent"])


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"medsam2 {runtime.__version__}\n"


def test_the_package_is_a_command() -> None:
    words = [sys.executable, "-m", "runtime", "--version"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"medsam2 {runtime.__version__}\n"
