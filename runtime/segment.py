"""`python -m runtime.segment`: prompts to masks (`runtime.commands.segment`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.segment")
