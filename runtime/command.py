"""What commands share: how a model is asked for, and errors as one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable

from runtime.backends import BACKENDS, HINTS
from runtime.errors import INTERRUPTED, OutOfMemory, Sam2Error
from runtime.packages import missing

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--bundle`, `--backend`, `--threads`, `--hint` and `--max-memory`."""
    add = parser.add_argument_group("model").add_argument
    add("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    add(
        "--backend",
        default="auto",
        choices=["auto", *BACKENDS],
        help="auto: the fastest that medsam2 certify has certified on this machine",
    )
    add("--threads", type=int, metavar="N", help="default: one for each core")
    add(
        "--hint",
        default="latency",
        choices=list(HINTS),
        help="; ".join(f"{name}: {what}" for name, what in HINTS.items()),
    )
    add(
        "--max-memory",
        type=parse_bytes,
        metavar="BYTES",
        help="of encoded slices to hold, such as 800M or 4G; default: a third of the machine's",
    )


def parse_bytes(text: str) -> int:
    """A size such as 800M or 1.5G in bytes. Raises argparse's error."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"found '{text}'; wanted a size such as 800M or 4G")
    return int(float(match[1]) * UNITS[match[2].upper()])


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main` and leave with its exit code (see `runtime.errors`)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except Sam2Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (instead := missing(error)) is None:
            raise
        print(f"error: {instead}", file=sys.stderr)
        sys.exit(instead.exit_code)
    except MemoryError as error:
        print(f"error: out of memory: {error}", file=sys.stderr)
        sys.exit(OutOfMemory.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
