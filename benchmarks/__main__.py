"""`python -m benchmarks NAME`: speed, its growth and its ceilings, quality, labelled data."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process.run import run_command

    run_command("benchmarks.__main__")

import sys

from runtime.process.subcommands import Program, Subcommand

PROGRAM = Program(
    name="python -m benchmarks",
    summary="Measure speed, its growth and its ceilings, and quality.",
    commands={
        "rivals": Subcommand(
            "benchmarks.speed.rivals",
            "a bundle's back ends against PyTorch and the official package, in one run",
        ),
        "scaling": Subcommand(
            "benchmarks.speed.scaling",
            "latency and memory against slices, objects, prompts, threads and image size",
        ),
        "kernels": Subcommand(
            "benchmarks.speed.kernels",
            "every CUDA kernel beside its reference and the card's copy speed",
        ),
        "ceilings": Subcommand(
            "benchmarks.speed.ceilings",
            "what this machine can do at the most: copies, products, launches",
        ),
        "roofline": Subcommand(
            "benchmarks.speed.roofline",
            "the least time a bundle's graphs can take on such a machine",
        ),
        "gpu-check": Subcommand(
            "benchmarks.gpu.gpu_check", "everything above on a CUDA machine, within a given time"
        ),
        "quality": Subcommand(
            "benchmarks.quality.quality",
            "Dice and more on held-out phantoms or on labelled volumes in a folder",
        ),
        "study": Subcommand(
            "benchmarks.quality.study",
            "memory, pick-up, stop rule and zoom on clean and on damaged phantoms, with intervals",
        ),
        "annotator": Subcommand(
            "benchmarks.annotation.annotator",
            "what a simulated annotator saves with a model and with a cohort's review queue",
        ),
        "limits": Subcommand(
            "benchmarks.speed.limits", "exit codes under limits of memory, which have to be 0 or 6"
        ),
        "soak": Subcommand(
            "benchmarks.speed.soak", "many sessions of the server, and what it has kept of them"
        ),
        "cohort": Subcommand(
            "benchmarks.speed.cohort", "studies an hour by workers, and what the driver keeps"
        ),
        "cohort-faults": Subcommand(
            "benchmarks.speed.cohort_faults",
            "a cohort through a killed worker, a killed driver and a lost node",
        ),
        "phantoms": Subcommand("benchmarks.phantoms.write_phantoms", "labelled phantoms as files"),
        "fuzz": Subcommand(
            "benchmarks.fuzz.command", "damaged files: each read right, refused, or a fault"
        ),
    },
)


def main(arguments: list[str] | None = None) -> None:
    """Hand over to a benchmark."""
    PROGRAM.run(sys.argv[1:] if arguments is None else arguments)
