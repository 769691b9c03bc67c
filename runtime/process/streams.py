"""A command's standard streams, whatever they are: closed, full, a pipe that nobody reads, of any encoding.

stdout carries the result and nothing else, so a result that cannot be written there is a failure. stderr carries what
people like to know meanwhile; what cannot be written there is lost, and the work goes on.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from runtime.errors import Sam2Error

STDIN, STDOUT, STDERR = range(3)
# A closed stdout is opened for reading, so that writing fails as if it still were closed, while no file that is
# opened later gets its number and with it whatever a library prints.
MODES = {STDIN: os.O_RDONLY, STDOUT: os.O_RDONLY, STDERR: os.O_WRONLY}


def open_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` usable in this process, for good."""
    for descriptor, mode in MODES.items():  # in this order: the lowest free number is taken
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    if sys.platform == "win32":  # whose console is no file
        return
    result = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)  # what libraries in C print there is no result
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(ResultFile(result, "w", closefd=False)),
        encoding=_encoding_of(sys.stdout),
        errors="backslashreplace",
        line_buffering=os.isatty(result),
    )
    sys.stderr = io.TextIOWrapper(
        LossyFile(STDERR, "w", closefd=False),
        encoding=_encoding_of(sys.stderr),
        errors="backslashreplace",
        write_through=True,
    )


def _encoding_of(stream: TextIO | None) -> str:
    return stream.encoding if stream is not None else "utf-8"


class LossyFile(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            super().write(data)
        return len(data)


class ResultFile(io.FileIO):
    """A file whose failure is a failure of the command, said in its own words."""

    def write(self, data: Any, /) -> int:
        """Raises Sam2Error."""
        try:
            return super().write(data)
        except OSError as error:
            raise Sam2Error(
                f"the result could not be written to stdout ({error.strerror}); "
                "files that the command was asked for are whole"
            ) from error


def sayable(value: Any) -> Any:
    """Turn a value into what JSON has words for.

    NaN and infinities are null; in names of files, bytes that are not UTF-8 are written as \\xNN.
    """
    if isinstance(value, str):
        return os.fsencode(value).decode("utf-8", "backslashreplace") if _is_odd(value) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {sayable(key): sayable(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [sayable(content) for content in value]
    return value


def print_result(result: Any, indent: int | None = None) -> None:
    """Write a command's result to stdout, `sayable`, as JSON that every parser takes, at once. Raises Sam2Error."""
    print(json.dumps(sayable(result), indent=indent, allow_nan=False), flush=True)


def close_streams(code: int) -> int:
    """Write out what stdout still holds; returns the exit code, a failure's where that is not possible."""
    try:
        sys.stdout.flush()
    except (OSError, Sam2Error) as error:
        if not code:
            print(f"error: {error}", file=sys.stderr)
        # Python would try again while it ends, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or Sam2Error.exit_code
    return code


def _is_odd(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
