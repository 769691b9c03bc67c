"""Read a checkpoint without running anything in it, and find out which model it holds."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoints.checkpoint_file import read_file
from export.checkpoints.families import family_of, why
from export.checkpoints.published import PUBLISHED
from export.checkpoints.shapes import Shapes, may_fit, shapes_of
from export.checkpoints.weight_sets import WeightSet, all_names, choose_set
from export.model.network import Network, network
from export.variants import VARIANTS, Variant
from runtime.errors import CheckpointError, MissingInput

HUB_PREFIX = "hf:"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTER = "num_batches_tracked"  # of a batch norm, which only training reads
FEW = 3  # names of a kind that a message lists

log = logging.getLogger("export")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights and what they are.

    Attributes:
        variant: the row of the table they fit.
        state: official keys to float32 tensors.
        source: file name, or what the weights are called.
        sha256: of the file.
        entry: where in the file they lie, see `export.checkpoints.weight_sets`.
        others: tensors beside them that were left out.
    """

    variant: Variant
    state: dict[str, Tensor]
    source: str
    sha256: str
    entry: str = ""
    others: int = 0


def read_checkpoint(
    path: str | Path, model: str | None = None, entry: str | None = None
) -> Checkpoint:
    """Read a .pt or .safetensors file and check it against the variants table.

    Args:
        path: a file, or `hf:OWNER/REPOSITORY/FILE` for Hugging Face's hub (its offline mode is honoured).
        model: the row it must fit; None finds the row by the shapes, and among rows of one network (sam2.1_hiera_t and
            medsam2 differ in image size alone) by the file's SHA-256 if it was published, else by its name.
        entry: which weights, where a file holds several sets, such as "ema".

    Raises:
        MissingInput: no such file.
        CheckpointError: not readable with tensors alone, damaged, another network, not the row named, or one of
            several rows.
        OutOfMemory: it does not fit.
    """
    file = _from_hub(str(path)) if str(path).startswith(HUB_PREFIX) else Path(path)
    if not file.is_file():
        what = "a folder; name the file in it" if file.is_dir() else "no file"
        raise MissingInput(f"no checkpoint at {file}: it is {what}")
    if model is not None and model not in VARIANTS:
        raise CheckpointError(f"no model '{model}'; there are: {', '.join(VARIANTS)}")
    log.info("reading %s, %.0f MB", file, file.stat().st_size / 1e6)
    content = read_file(file)
    weights = choose_set(content, file, entry)
    _check_plain(weights.tensors, file)
    sha256 = _sha256(file)
    variant = _fitting(weights, all_names(content), file, model or PUBLISHED.get(sha256))
    state = _float32(weights.tensors, file)
    # A file may be called anything, and a manifest says one printable line.
    source = "".join(letter if letter.isprintable() else "?" for letter in file.name)
    return Checkpoint(variant, state, source, sha256, weights.entry, weights.others)


def load_model(checkpoint: Checkpoint, image_size: int | None = None) -> Network:
    """The torch model with these weights, loaded strictly."""
    model = network(checkpoint.variant, image_size)
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


def _fitting(weights: WeightSet, names: list[str], file: Path, model: str | None) -> Variant:
    """The row of the table that some weights fit, in shapes. Raises CheckpointError if it is none, or another."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    fitting = [
        name for name, row in VARIANTS.items() if may_fit(row, shapes) and shapes_of(row) == shapes
    ]
    if not fitting and (family := family_of(names)) is not None:
        raise CheckpointError(f"{file} is of {family}, by the names of its tensors: {why(family)}")
    if model is None:
        if not fitting:
            raise CheckpointError(f"{file} fits no model in the table; {_nearest(shapes, file)}")
        model = _named(fitting, file)
    elif model not in fitting:
        instead = f"; it fits {fitting[0]}: use --model {fitting[0]}" if fitting else ""
        raise CheckpointError(f"{file} is not {model}: {difference(shapes, model)}{instead}")
    return VARIANTS[model]


def _float32(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same weights in float32. Raises CheckpointError for one that is no finite floating point number there."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(COUNTER) and not tensor.ndim and tensor.dtype == torch.int64:
            state[name] = tensor.detach()
            continue
        if tensor.dtype not in DTYPES:
            wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise CheckpointError(
                f"{file}: '{name}' is {str(tensor.dtype).removeprefix('torch.')}, wanted one of {wanted}"
            )
        state[name] = tensor.detach().float()
        if not state[name].isfinite().all():
            raise CheckpointError(
                f"{file} has non-finite numbers, first in '{name}'; the file is damaged, or training diverged"
            )
    return state


def _check_plain(tensors: dict[str, Tensor], file: Path) -> None:
    """Raise CheckpointError for a tensor that has no plain numbers, such as a sparse one."""
    for name, tensor in tensors.items():
        is_dense = tensor.layout is torch.strided and not tensor.is_nested
        if not is_dense or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(
                f"{file}: '{name}' is a sparse, nested, quantised or empty tensor; wanted dense numbers"
            )


def _named(fitting: list[str], file: Path) -> str:
    """The one row that fits, or the one of several that the file is named after, by the longest of their names.

    A number is taken whole: `efficienttam_s_1` is not what efficienttam_s_1024.pt is named after.
    """
    named = fitting
    if len(fitting) > 1:
        said = [x for x in fitting if re.search(rf"{re.escape(x)}(?!\d)", file.name.lower())]
        named = [x for x in said if not any(x in longer for longer in said if longer != x)]
    if len(named) != 1:
        sizes = " or ".join(
            f"--model {name} ({VARIANTS[name].image_size} pixels)" for name in fitting
        )
        raise CheckpointError(
            f"{file} fits several models, and its name does not say which: pass {sizes}"
        )
    return named[0]


def _nearest(shapes: Shapes, file: Path) -> str:
    """Which row comes nearest, and in what it differs all the same; the file's name chooses between equals."""
    rows = {name: shapes_of(variant) for name, variant in VARIANTS.items()}
    common = {name: len(row.items() & shapes.items()) for name, row in rows.items()}
    share = {name: common[name] / len(row.keys() | shapes.keys()) for name, row in rows.items()}
    nearest = max(rows, key=lambda name: (share[name], name in file.name.lower()))
    if not common[nearest]:
        return f"it comes near none: {len(shapes)} tensors, first '{next(iter(shapes))}'"
    return (
        f"nearest is {nearest}, of whose {len(rows[nearest])} tensors {common[nearest]} fit: "
        f"{difference(shapes, nearest)}"
    )


def difference(shapes: Shapes, model: str) -> str:
    """In what some tensors differ from those of a model: counts, and the first few of each kind."""
    wanted = shapes_of(VARIANTS[model])
    others = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
    kinds = (
        ("missing", [name for name in wanted if name not in shapes]),
        ("unexpected", [name for name in shapes if name not in wanted]),
        (
            "of another shape",
            [f"{name} {shapes[name]} instead of {wanted[name]}" for name in others],
        ),
    )
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:FEW])}{', ...' if len(names) > FEW else ''})"
        for kind, names in kinds
        if names
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
