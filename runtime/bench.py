"""`python -m runtime.bench`: latency by stage (`runtime.commands.bench`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.bench")
