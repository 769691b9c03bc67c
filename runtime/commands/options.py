"""What commands share: how a model is asked for."""

from __future__ import annotations

import argparse
import re

from runtime.backends import BACKENDS, HINTS

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_model_options(
    parser: argparse.ArgumentParser,
    max_memory: str = "of encoded slices to hold, such as 800M or 4G; default: a third of the machine's",
) -> None:
    """`--bundle`, `--backend`, `--threads`, `--hint` and `--max-memory`, of which `max_memory` says what it bounds."""
    add = parser.add_argument_group("model").add_argument
    add("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    add(
        "--backend",
        default="auto",
        choices=["auto", *BACKENDS],
        help="auto: the fastest that medsam2 certify has certified on this machine",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="default: one for each core, or what a container gives time for",
    )
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
        help=max_memory,
    )


def parse_path(text: str) -> str:
    """A path that is not empty, which would stand for the current folder. Raises argparse's error."""
    if not text:
        raise argparse.ArgumentTypeError("found an empty path; wanted a file's or folder's")
    return text


def parse_bytes(text: str) -> int:
    """A size such as 800M or 1.5G in bytes. Raises argparse's error."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"found '{text}'; wanted a size such as 800M or 4G")
    return int(min(float(match[1]) * UNITS[match[2].upper()], 2**62))
