"""How training computes on a CPU: in bfloat16 where it has that, by the library that is fast on any maker's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.devices import products_by_onednn

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
"""Keys of `torch.cpu.get_capabilities`, any of which says that products of bfloat16 are fast."""


@contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """Settings of the whole process for a CPU, put back at the end, or others would compute with them.

    Attention is spelled as two products and a softmax, since PyTorch's fused kernel asks for many small products, each
    of them dear to oneDNN.
    """
    if device.type != "cpu":
        yield
        return
    products = products_by_onednn() if has_bf16() else nullcontext()
    torch.set_flush_denormal(True)
    try:
        with (
            products,
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cpu", torch.bfloat16, has_bf16()),
        ):
            yield
    finally:
        torch.set_flush_denormal(False)


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in BF16_FEATURES)
