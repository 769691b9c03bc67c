"""`python -m runtime.cohort`: many studies to masks, a table and a report (`runtime.commands.cohort`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.cohort")
