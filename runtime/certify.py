"""`python -m runtime.certify`: back ends compared on this machine (`runtime.commands.certify`)."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.process.run import run_command

    run_command("runtime.commands.certify")
