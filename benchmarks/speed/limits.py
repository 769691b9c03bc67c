"""`python -m benchmarks limits`: what a run ends with under every limit of memory, which has to be exit code 0 or 6."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from runtime.backends import BACKENDS, DEFAULT
from runtime.errors import BackendUnavailable, InputError, Mismatch, OutOfMemory
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

if sys.platform != "win32":
    import resource

ALLOWED = (0, OutOfMemory.exit_code)
LIMIT_S = 120.0
"""Of one run; one that takes longer hangs."""
SHORT_RUN = ("--slices", "2", "--image-size", "64", "--repeat", "1")

EXAMPLES = """examples:
  python -m benchmarks limits --backend openvino
  python -m benchmarks limits --from 300 --to 500 --step 5

Each point is a short run of python -m runtime.bench in a process of its own, with so much address space (ulimit -v).
"""

Run = Callable[[Sequence[str], int], tuple[int | None, str]]
"""Words of a command and its limit in MiB to its exit code, None if it hung, and to what it said on stderr."""


def run_limited(words: Sequence[str], limit_mib: int) -> tuple[int | None, str]:
    """A `Run`."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_mib << 20,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    command = [sys.executable, *words]
    try:
        done = subprocess.run(
            command, preexec_fn=limit, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr


def sweep(backend: str, limits_mib: Sequence[int], run: Run) -> list[dict[str, Any]]:
    """A row for each limit: its exit code, whether that is as promised, and the last line on stderr."""
    rows = []
    words = ("-m", "runtime.bench", "--backend", backend, *SHORT_RUN)
    for limit_mib in tqdm(limits_mib, desc=backend, unit="run", file=sys.stderr):
        code, said = run(words, limit_mib)
        last = (said.splitlines() or [""])[-1]
        is_right = code in ALLOWED and "Traceback" not in said
        rows.append({"limit_mib": limit_mib, "code": code, "is_right": is_right, "said": last})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    p = command_parser(
        "python -m benchmarks limits", "Exit codes under limits of memory.", EXAMPLES
    )
    p.add_argument("--backend", default=DEFAULT, choices=list(BACKENDS), help="(%(default)s)")
    p.add_argument(
        "--from", dest="start", type=int, default=50, metavar="MIB", help="(%(default)s)"
    )
    p.add_argument("--to", type=int, default=1500, metavar="MIB", help="(%(default)s)")
    p.add_argument("--step", type=int, default=25, metavar="MIB", help="(%(default)s)")
    args = p.parse_args(arguments)
    if sys.platform == "win32":
        raise BackendUnavailable("Windows has no such limits; run this elsewhere")
    if not 0 < args.start <= args.to or args.step < 1:
        raise InputError(
            f"found --from {args.start} --to {args.to} --step {args.step}; wanted 0 < from <= to, and a step above 0"
        )
    rows = sweep(args.backend, range(args.start, args.to + 1, args.step), run_limited)
    wrong = [row for row in rows if not row["is_right"]]
    counts = Counter(str(row["code"]) for row in rows)
    print_result({"backend": args.backend, "codes": counts, "wrong": wrong, "rows": rows})
    if wrong:
        first = wrong[0]
        raise Mismatch(
            f"{len(wrong)} of {len(rows)} runs did not end with 0 or 6; the first, with {first['limit_mib']} MiB, with "
            f"{first['code']}: {first['said']}"
        )
