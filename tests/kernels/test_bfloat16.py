from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.bfloat16 import from_bits, round_to_bfloat16, to_bits

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(values: np.ndarray) -> np.ndarray:
    out = np.full_like(values, np.nan)
    round_to_bfloat16(values, out)
    return out


def torch_rounded(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().float().numpy()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def test_every_tie_and_its_neighbours_round_as_pytorch_rounds_them() -> None:
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper | lower).view(np.float32)
    values = values[np.isfinite(values).all(1)]
    assert same_bits(rounded(values), torch_rounded(values))


@given(arrays(np.float32, 50, elements=FINITE))
@settings(deadline=None)
def test_any_finite_number_rounds_as_pytorch_rounds_it(values: np.ndarray) -> None:
    assert same_bits(rounded(values), torch_rounded(values))


def test_ties_go_to_the_even_neighbour() -> None:
    # bfloat16 keeps eight significant bits: between 256 and 512 it steps by two.
    values = np.array([257, 259, -257, 257.001], np.float32)
    assert rounded(values).tolist() == [256, 260, -256, 258]


def test_rounding_in_place_and_from_a_strided_view_work() -> None:
    values = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    expected = torch_rounded(values)
    assert same_bits(rounded(values[::2, ::-1]), expected[::2, ::-1].copy())
    round_to_bfloat16(values, values)
    assert same_bits(values, expected)


def test_rounding_twice_is_rounding_once() -> None:
    once = rounded(np.random.default_rng(1).standard_normal(1000).astype(np.float32))
    assert same_bits(rounded(once), once)


def test_bits_are_the_upper_halves_of_rounded_numbers_and_say_them_again() -> None:
    values = np.random.default_rng(2).standard_normal((7, 5)).astype(np.float32)[:, ::2]
    bits = to_bits(values)
    truth = torch.from_numpy(values.copy()).bfloat16()
    assert np.array_equal(bits, truth.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(from_bits(bits), truth.float().numpy())
