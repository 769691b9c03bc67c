"""How training computes on a CPU: in bfloat16 where it has that, by the library that is fast on any maker's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
"""Keys of `torch.cpu.get_capabilities`, any of which says that products of bfloat16 are fast."""


@contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """Settings of the whole process for a CPU, put back at the end, or others would compute with them.

    On a CPU products go to oneDNN: PyTorch's other library, MKL, takes AVX2 kernels on processors that are not
    Intel's, which is half of what an AVX-512 one can do. Attention is spelled as two products and a softmax, since
    PyTorch's fused kernel asks for many small products, each of them dear to oneDNN.
    """
    if device.type != "cpu":
        yield
        return
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    torch.set_flush_denormal(True)
    matmul.fp32_precision = "bf16" if has_bf16() else before
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, has_bf16()):
            yield
    finally:
        matmul.fp32_precision = before
        torch.set_flush_denormal(False)


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in BF16_FEATURES)
