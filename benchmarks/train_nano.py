"""`python -m benchmarks.train_nano`: train the embedded demonstration model (`benchmarks.training.train_nano`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("benchmarks.training.train_nano")
