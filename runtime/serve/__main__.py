"""`python -m runtime.serve`: a server for viewers (`runtime.commands.serve`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.serve")
