"""`mma.cuh` on the host against PTX ISA's own formulas for who holds what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels.bfloat16 import from_bits, to_bits
from kernels.kernel import Launch
from tests.kernels import on_host

SOURCE = Path(__file__).with_name("mma.cu")
LANES = np.arange(32)
GROUP, THREAD = LANES >> 2, LANES % 4

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")


def run(entry: str, **tensors: np.ndarray) -> None:
    on_host.run(SOURCE, [Launch(entry, (1, 1, 1), (32, 1, 1), tuple(tensors))], tensors)


def words(halves: np.ndarray) -> np.ndarray:
    """(..., 2 n) 16-bit numbers to (..., n) words, the first in the lower half."""
    return np.ascontiguousarray(halves).view(np.uint32)


def test_fragments_of_mma_m16n8k16_lie_as_ptx_says() -> None:
    rng = np.random.default_rng(0)
    a, b = (to_bits(rng.standard_normal(shape).astype(np.float32)) for shape in ((16, 16), (16, 8)))
    before = rng.standard_normal((16, 8)).astype(np.float32)
    # PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": rows and columns of a_i, b_i and c_i.
    a_i, b_i, c_i = (np.arange(count)[None] for count in (8, 4, 4))
    group, thread = GROUP[:, None], THREAD[:, None]
    is_upper = (a_i < 2) | ((a_i >= 4) & (a_i < 6))
    fragments_a = a[np.where(is_upper, group, group + 8), 2 * thread + (a_i & 1) + 8 * (a_i >= 4)]
    fragments_b = b[2 * thread + (b_i & 1) + 8 * (b_i >= 2), group + 0 * b_i]
    place = np.where(c_i < 2, group, group + 8), 2 * thread + (c_i & 1)
    c = before[place]
    run("multiply", a=words(fragments_a), b=words(fragments_b), c=c)
    truth = from_bits(a).astype(np.float64) @ from_bits(b) + before
    np.testing.assert_allclose(c, truth[place], atol=1e-5)


def test_matrices_come_row_by_row_or_transposed_and_what_is_not_there_is_zero() -> None:
    rows = np.arange(1, 32 * 8 + 1, dtype=np.uint16).reshape(4, 8, 8)
    found = np.zeros((2, 32, 4), np.uint32)
    run("matrices", rows=rows, words=found)
    rows[3, 7] = 0
    for out, matrices in zip(found, (rows, rows.transpose(0, 2, 1)), strict=True):
        for i, matrix in enumerate(matrices):
            held = np.stack([matrix[GROUP, 2 * THREAD], matrix[GROUP, 2 * THREAD + 1]], -1)
            np.testing.assert_array_equal(out[:, i], words(held)[:, 0])


def test_two_numbers_are_rounded_into_one_word_the_first_below() -> None:
    numbers = np.random.default_rng(1).standard_normal((32, 2)).astype(np.float32)
    numbers[0] = 1 + 1 / 256, 1 + 3 / 256  # ties
    found = np.zeros(32, np.uint32)
    run("pairs", numbers=numbers, words=found)
    np.testing.assert_array_equal(found, words(to_bits(numbers))[:, 0])
