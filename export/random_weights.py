"""Seeded random weights that make every part of a model matter: for benchmarks and parity tests only."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from export.model.network import Network

# Where fan-in alone would not do. Masks should follow the image rather than one constant, and a wrong pointer position
# should show. Memories stay small, so that attention over them is soft: where it is sharp, one pixel that falls on the
# other side of zero changes everything after it, and no two machines would agree.
GAINS = {
    "conv_s": 3.0,
    "obj_ptr_tpos_proj": 6.0,
    "memory_encoder.out_proj": 0.3,
    "attention_biases": 7.0,
    # What EdgeTAM's blocks add to what they are given, twenty times over.
    "_mixer.": 0.3,
    ".ffn.": 0.3,
}
# Matrices of SAM 1 and EdgeTAM whose names speak of embeddings and tokens. SAM 2's are drawn as if they were such, and
# stay so: bundles of its random weights are known by their hash.
MATRICES = (
    "mask_decoder.transformer.",
    "image_encoder.patch_embed.",
    "image_encoder.trunk.body.",
)
# Up, so that objects are mostly present.
PRESENCE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"


def random_state(model: Network, seed: int) -> dict[str, Tensor]:
    """A state dict for the model: matrices scaled by fan-in, gains near one, small non-zero biases and codes.

    PyTorch's own initialisation leaves position codes, pointers and gates at zero, which would hide mistakes in them.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, tensor, generator) for name, tensor in model.state_dict().items()}


def _draw(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if not like.dtype.is_floating_point:  # batches that a norm has seen, which nothing depends on
        return like.clone()
    noise = torch.randn(like.shape, generator=generator)
    if name.endswith("running_var"):
        return (0.3 * noise).exp()
    if "gaussian_matrix" in name:
        return noise
    if name == PRESENCE_BIAS:
        return 1 + 0.1 * noise
    if like.ndim == 1:
        is_gain = name.endswith(("weight", "gamma"))
        return 1 + 0.1 * noise if is_gain else 0.1 * noise
    is_code = "embed" in name or "token" in name or name.endswith(("_enc", "_ptr"))
    if is_code and not name.startswith(MATRICES):
        return 0.3 * noise
    # Transposed convolutions are stored (in, out, 2, 2); each output pixel sees every input channel.
    fan_in = like.shape[0] if "output_upscaling" in name else like[0].numel()
    gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
    return gain * noise / fan_in**0.5


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 over all names and values: tells whether two states are the same weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
