"""What every command shares: errors become one line on stderr and an exit code; stdout stays for results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from runtime.errors import INTERRUPTED, OutOfMemory, Sam2Error


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main` and leave with its exit code (see `runtime.errors`)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except Sam2Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MemoryError as error:
        print(f"error: out of memory: {error}", file=sys.stderr)
        sys.exit(OutOfMemory.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
