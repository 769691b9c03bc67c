"""One program of several commands: each is imported only when it is asked for, since they need different packages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

USAGE_ERROR = 2


@dataclass(frozen=True, slots=True)
class Subcommand:
    """Where a command's `main(arguments)` is, and what it does, in a line."""

    module: str
    summary: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program's name, what it does, its commands, and what its help ends with."""

    name: str
    summary: str
    commands: Mapping[str, Subcommand]
    epilog: str = ""

    def run(self, arguments: Sequence[str]) -> None:
        """Hand over to the command that is named first.

        Raises SystemExit with 0 after printing help, with 2 where no command or an unknown one is named.
        """
        name, *rest = arguments or [""]
        if name in ("-h", "--help"):
            print(self.help)
            raise SystemExit(0)
        if name not in self.commands:
            print(self._refusal(name), file=sys.stderr)
            raise SystemExit(USAGE_ERROR)
        import_module(self.commands[name].module).main(rest)

    @property
    def help(self) -> str:
        """Usage, and a line for each command."""
        width = max(map(len, self.commands))
        rows = [f"  {name:{width}}  {command.summary}" for name, command in self.commands.items()]
        usage = f"usage: {self.name} COMMAND [--help] ..."
        lines = [usage, "", self.summary, "", "commands:", *rows, "", self.epilog]
        return "\n".join(lines).rstrip()

    def _refusal(self, name: str) -> str:
        if not name:
            return self.help
        if name.startswith("-"):
            return f"{self.name}: error: wanted a command before {name}; see {self.name} --help"
        near = get_close_matches(name, self.commands, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        there = ", ".join(self.commands)
        return f"{self.name}: error: no command '{name}'; {hint}there are: {there}"


def command_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A command's parser, whose help ends with examples as they are written."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
