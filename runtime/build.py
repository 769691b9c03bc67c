"""`python -m runtime.build`: TensorRT engines, built and certified (`runtime.commands.build`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.build")
