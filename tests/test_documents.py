"""What documents say of commands and tables, held against the code."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks.__main__ import PROGRAM as BENCHMARKS
from runtime.__main__ import PROGRAM
from runtime.backends import BACKENDS
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.process.subcommands import Program

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/nano/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = {"medsam2 ": PROGRAM, "python -m benchmarks ": BENCHMARKS}


def commands(document: Path) -> list[str]:
    """The lines of its blocks that begin with one of our programs, comments and redirections left out."""
    text = document.read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition(" > ")[0] for line in lines if line.startswith(tuple(PROGRAMS))]


class Taken(Exception):
    """A parser takes what it was given."""


@pytest.fixture
def parsed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parsed(*given: Any, **named: Any) -> NoReturn:
        parse(*given, **named)
        raise Taken

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_of_documents_are_taken(
    document: Path, parsed_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands(document):
        start = next(start for start in PROGRAMS if line.startswith(start))
        program: Program = PROGRAMS[start]
        words = shlex.split(line.removeprefix(start), comments=True)
        try:
            program.run(words)
        except Taken:
            continue
        except SystemExit as end:
            assert not end.code, f"{line}: {capsys.readouterr().err}"


def test_there_are_commands_to_look_at() -> None:
    assert len([line for document in DOCUMENTS for line in commands(document)]) > 40


@pytest.mark.parametrize(
    ("heading", "names"),
    [("--backend", BACKENDS), ("--memory", POLICIES), ("--pick-up", PICK_UPS)],
    ids=["back ends", "policies", "pick-ups"],
)
def test_tables_of_the_readme_have_every_name(heading: str, names: Any) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition(f"| `{heading}` |")[2].partition("\n\n")[0]
    told = [re.findall(r"`([\w-]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    # Back ends of another spelling are told of by what their names end in, and auto is none of them.
    wanted = {name for name in names if not name.endswith("-unfused")}
    assert {name for row in told for name in row} - {"auto"} == wanted
