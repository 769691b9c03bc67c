"""`medsam2 COMMAND`, or `python -m runtime COMMAND`: one door to all commands."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import, which an interrupt may fall into
    from runtime.process.run import run_command

    run_command("runtime.__main__")

import sys

from runtime.process.subcommands import Program, Subcommand
from runtime.version import __version__

PROGRAM = Program(
    name="medsam2",
    summary="Segment medical volumes, image sets and videos with SAM 2-family networks, without torch.",
    commands={
        "segment": Subcommand(
            "runtime.commands.segment", "a study, images or a video: prompts to masks"
        ),
        "serve": Subcommand(
            "runtime.commands.serve", "for 3D Slicer, napari, ITK-SNAP and browsers, on one port"
        ),
        "cohort": Subcommand(
            "runtime.commands.cohort",
            "many studies on many cores or machines, to masks and a table",
        ),
        "bench": Subcommand(
            "runtime.commands.bench", "latency by stage, throughput and memory, here"
        ),
        "certify": Subcommand(
            "runtime.commands.certify", "compare back ends here, so that auto may choose"
        ),
        "build": Subcommand(
            "runtime.commands.build", "TensorRT engines, built ahead and certified"
        ),
        "export": Subcommand("export.__main__", "a checkpoint to a bundle of ONNX graphs"),
        "verify": Subcommand("export.verify", "a bundle against its checkpoint in PyTorch"),
        "calibrate": Subcommand("export.calibrate", "a bundle's confidence, from labelled volumes"),
    },
    epilog="""examples:
  medsam2 segment -i ct.nii.gz -o lesion.nii.gz --box 57,200,260,180,250 --preview lesion.png
  medsam2 serve --open ct.nii.gz --browser
  medsam2 bench
  medsam2 export --checkpoint hf:wanglab/MedSAM2/MedSAM2_latest.pt -o medsam2
  medsam2 segment --help

Each is a module too, such as python -m runtime.segment, python -m export and python -m export.verify.""",
)


def main(arguments: list[str] | None = None) -> None:
    """Hand over to a command, or say which version this is."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["--version"]:
        print(f"{PROGRAM.name} {__version__}")
        return
    PROGRAM.run(words)
