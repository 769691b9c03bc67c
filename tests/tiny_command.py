"""A command that does what every command does, in no time: a file, a progress bar, a warning, and a result."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from tqdm import tqdm

from runtime.files.atomic import write_text
from runtime.process.streams import print_result


def main(arguments: list[str]) -> None:
    """Write "whole" to the path that is given."""
    for _ in tqdm(range(3), desc="tiny", file=sys.stderr):
        logging.getLogger("runtime").warning(
            "a warning with an umlaut: \u00fc, and half a letter: \udcff"
        )
    write_text(arguments[0], "whole")
    with suppress(OSError):
        os.write(1, b"a library prints\n")
    sys.stdout.write("a table: \u00fc\n" if "table" in arguments else "")
    print_result({"mask": arguments[0]})
