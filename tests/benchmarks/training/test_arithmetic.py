"""How training computes, and that nobody else computes so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.training import arithmetic
from benchmarks.training.arithmetic import fast_arithmetic, has_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("bf16", [True, False])
def test_products_are_of_bfloat16_where_the_processor_has_it(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16, "avx2": True})
    assert has_bf16() is bf16
    a, b = torch.rand(4, 4), torch.rand(4, 4)
    with fast_arithmetic(CPU):
        product = a @ b
    assert product.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert torch.allclose(product.float(), a @ b, rtol=2e-2)


@pytest.mark.parametrize("fails", [True, False])
def test_settings_are_put_back(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16", lambda: True)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    tiny = torch.full((8,), 1e-30)
    try:
        with fast_arithmetic(CPU):
            assert matmul.fp32_precision == "bf16"
            assert not (tiny * 1e-10).any()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert matmul.fp32_precision == before
    assert (tiny * 1e-10).all()
    assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.float32


def test_attention_is_the_same() -> None:
    q, k, v = (torch.rand(2, 3, 5, 8) for _ in range(3))
    usual = F.scaled_dot_product_attention(q, k, v)
    with fast_arithmetic(CPU):
        spelled = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(usual, spelled.float(), atol=2e-2)
