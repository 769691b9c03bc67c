"""Checkpoints: PyTorch's files and safetensors."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.mutate import damage
from benchmarks.fuzz.target import Target

CHECKPOINT = Path(__file__).parents[1] / "nano" / "nano.pt"


def _read(path: Path) -> Any:
    from export.checkpoints.checkpoint import read_checkpoint

    return read_checkpoint(path).state


def _judge(state: Any, folder: Path, truth: Any) -> str | None:
    """PyTorch's files are archives with checksums, so that whatever is read has to be what was written."""
    if state.keys() != truth.keys():
        return f"{len(state.keys() ^ truth.keys())} keys differ"
    differ = [key for key in truth if not (state[key] == truth[key]).all()]
    return f"{len(differ)} tensors differ, first {differ[0]}" if differ else None


def _judge_unchecked(state: Any, folder: Path, truth: Any) -> str | None:
    """Nothing tells that a number was changed, but that all are there and finite."""
    if state.keys() != truth.keys():
        return f"{len(state.keys() ^ truth.keys())} keys differ"
    broken = [
        key
        for key, value in state.items()
        if not value.isfinite().all() or value.shape != truth[key].shape
    ]
    return f"{broken[0]} is not finite or misshapen" if broken else None


def _target(name: str, judge: Any, packages: tuple[str, ...]) -> Target:
    def prepare(folder: Path) -> Any:
        path = folder / name
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(_read(CHECKPOINT), path)
        else:
            path.write_bytes(CHECKPOINT.read_bytes())
        return _read(path)

    def spoil(folder: Path, rng: Random) -> None:
        path = folder / name
        path.write_bytes(damage(path.read_bytes(), rng))

    return Target(prepare, spoil, lambda folder: _read(folder / name), judge, packages, share=1)


WEIGHTS = {
    "checkpoint": _target("nano.pt", _judge, ("torch",)),
    "safetensors": _target(
        "sam2.1_hiera_nano.safetensors", _judge_unchecked, ("torch", "safetensors")
    ),
}
