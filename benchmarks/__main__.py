"""`python -m benchmarks NAME`: speed, its growth and its ceilings, quality, labelled data."""

from __future__ import annotations

import sys
from importlib import import_module

from runtime.command import run_command

# Imported only when asked for: they need different packages.
BENCHMARKS = {
    "rivals": "a bundle's back ends against PyTorch and the official package, in one run",
    "scaling": "latency and memory against slices, objects, prompts, threads and image size",
    "kernels": "every CUDA kernel beside its reference and the card's copy speed",
    "ceilings": "what this machine can do at the most: copies, products, launches",
    "roofline": "the least time a bundle's graphs can take on such a machine",
    "gpu-check": "everything above on a CUDA machine, within a given time",
    "quality": "Dice and more on held-out phantoms or on labelled volumes in a folder",
    "phantoms": "labelled phantoms as files",
}

MODULES = {"phantoms": "write_phantoms", "gpu-check": "gpu_check"}


def main() -> None:
    """Hand over to one of `BENCHMARKS`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in BENCHMARKS:
        import_module(f"benchmarks.{MODULES.get(name, name)}").main(arguments)
        return
    lines = [f"  {known:9} {what}" for known, what in BENCHMARKS.items()]
    print("usage: python -m benchmarks NAME [--help] ...\n\n" + "\n".join(lines))
    sys.exit(0 if name in ("-h", "--help") else 2)


if __name__ == "__main__":
    run_command(main)
