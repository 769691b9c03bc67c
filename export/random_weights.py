"""Seeded random weights that make every part of a model matter: for benchmarks and parity tests only."""

from __future__ import annotations

import torch
from torch import Tensor

from export.model.sam2 import Sam2


def random_state(model: Sam2, seed: int) -> dict[str, Tensor]:
    """A state dict for the model: matrices scaled by fan-in, gains near one, small non-zero biases and codes.

    PyTorch's own initialisation leaves position codes, pointers and gates at zero, which would hide mistakes in them.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, tensor, generator) for name, tensor in model.state_dict().items()}


def _draw(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator)
    if "gaussian_matrix" in name:
        return noise
    if like.ndim == 1:
        is_gain = name.endswith(("weight", "gamma"))
        return 1 + 0.1 * noise if is_gain else 0.1 * noise
    if "embed" in name or "token" in name or name.endswith(("_enc", "_ptr")):
        return 0.3 * noise
    if (
        "output_upscaling" in name
    ):  # stored (in, out, 2, 2); each output pixel sees every input channel
        return noise / like.shape[0] ** 0.5
    return noise / like[0].numel() ** 0.5
