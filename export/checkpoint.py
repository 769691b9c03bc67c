"""Read a checkpoint without running anything in it, and find out which model it holds."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from export.model.sam2 import Sam2
from export.variants import VARIANTS, Variant
from runtime.errors import CheckpointError, MissingInput

HUB_PREFIX = "hf:"
FORBIDDEN_GLOBAL = re.compile(r"GLOBAL (\S+)")  # how torch.load names what a file would run

# Key prefixes that give away other networks people try to load, most telling first.
FOREIGN = (
    ("spatial_perceiver.", "EdgeTAM"),
    ("image_encoder.trunk.body.", "EdgeTAM"),
    ("image_encoder.neck.convs.0.conv_1x1", "EfficientTAM (also Efficient MedSAM2)"),
    ("image_encoder.blocks.", "SAM 1 (also MedSAM)"),
    ("detector.", "SAM 3"),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights and what they are.

    Attributes:
        variant: the row of the table they fit.
        state: official keys to float32 tensors.
        source: file name, or what the weights are called.
        sha256: of the file.
    """

    variant: Variant
    state: dict[str, Tensor]
    source: str
    sha256: str


def read_checkpoint(path: str | Path, model: str | None = None) -> Checkpoint:
    """Read a .pt file and check it against the variants table.

    Args:
        path: a file, or `hf:OWNER/REPOSITORY/FILE` for Hugging Face's hub (its offline mode is honoured).
        model: the row it must fit; None finds the row by the shapes, and by the file's name among rows of one
            network (sam2.1_hiera_t and medsam2 differ in image size alone).

    Raises:
        MissingInput: no such file.
        CheckpointError: not readable with tensors alone, cut short, another network, not the row named, or one of
            several rows.
    """
    file = _from_hub(str(path)) if str(path).startswith(HUB_PREFIX) else Path(path)
    if not file.is_file():
        raise MissingInput(f"no checkpoint at {file}")
    if model is not None and model not in VARIANTS:
        raise CheckpointError(f"no model '{model}'; there are: {', '.join(VARIANTS)}")
    state = _state_dict(_load(file), file)
    variant = _identify(state, file, model)
    return Checkpoint(variant, {k: v.float() for k, v in state.items()}, file.name, _sha256(file))


def load_model(checkpoint: Checkpoint, image_size: int | None = None) -> Sam2:
    """The torch model with these weights, loaded strictly."""
    model = Sam2(checkpoint.variant, image_size)
    model.load_state_dict(checkpoint.state, strict=True)
    return model


def _from_hub(address: str) -> Path:
    parts = address.removeprefix(HUB_PREFIX).split("/")
    if len(parts) < 3 or not all(parts):
        raise CheckpointError(f"'{address}' is not of the form hf:OWNER/REPOSITORY/FILE")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:  # the hub's client raises from several libraries
        raise CheckpointError(f"{address} could not be fetched: {error}") from error


def _load(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost anything on bytes that it did not write
        if forbidden := FORBIDDEN_GLOBAL.search(str(error)):
            raise CheckpointError(
                f"{file} holds more than tensors ({forbidden[1]}) and was not opened, because that could run code "
                "from it; ask its author for a file of tensors only"
            ) from error
        raise CheckpointError(
            f"{file} is not a whole PyTorch checkpoint ({type(error).__name__}): it was cut short, or is "
            "something else, such as a web page or a Git LFS pointer; download it again"
        ) from error


def _state_dict(content: object, file: Path) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, dict) else content
    is_state = isinstance(state, dict) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    )
    if not is_state or not state:
        keys = list(content)[:6] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{file} holds no state dict; wanted tensors by name, or under 'model', found {keys}"
        )
    return dict(state)


def _identify(state: dict[str, Tensor], file: Path, model: str | None) -> Variant:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    fitting = [name for name in VARIANTS if _shapes(VARIANTS[name]) == shapes]
    if model is None:
        if not fitting:
            raise CheckpointError(f"{file} fits no model in the table: {_difference(shapes, None)}")
        model = _named(fitting, file)
    elif model not in fitting:
        instead = f"; it fits {fitting[0]}: use --model {fitting[0]}" if fitting else ""
        raise CheckpointError(f"{file} is not {model}: {_difference(shapes, model)}{instead}")
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{file} has non-finite numbers, first in '{broken[0]}'; the file is damaged"
        )
    return VARIANTS[model]


def _named(fitting: list[str], file: Path) -> str:
    """The one row that fits, or the one of several that the file is named after."""
    named = [name for name in fitting if name in file.name.lower()] if len(fitting) > 1 else fitting
    if len(named) != 1:
        sizes = " or ".join(
            f"--model {name} ({VARIANTS[name].image_size} pixels)" for name in fitting
        )
        raise CheckpointError(
            f"{file} fits several models, and its name does not say which: pass {sizes}"
        )
    return named[0]


@cache
def _shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Sam2(variant)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _difference(shapes: dict[str, tuple[int, ...]], model: str | None) -> str:
    for prefix, name in FOREIGN:
        if any(key.startswith(prefix) for key in shapes):
            return f"its keys are those of {name}, which is not supported"
    if model is None:
        return f"{len(shapes)} tensors, first '{next(iter(shapes))}'"
    wanted = _shapes(VARIANTS[model])
    missing = sorted(wanted.keys() - shapes.keys())
    extra = sorted(shapes.keys() - wanted.keys())
    other = [k for k in wanted.keys() & shapes.keys() if wanted[k] != shapes[k]]
    parts = [
        f"{len(keys)} tensors {what} (first '{keys[0]}')"
        for what, keys in (
            ("missing", missing),
            ("left over", extra),
            ("of another shape", sorted(other)),
        )
        if keys
    ]
    return ", ".join(parts)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
