"""Reading memory: what its kernels, run on the host, and its reference owe to the formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.model.attention import attention
from kernels import memory_read
from kernels.bfloat16 import from_bits, to_bits
from kernels.kernel import FOLDER, KernelCase
from kernels.memory_read import KERNEL, KEYS, QUERIES, TOLERANCE, tiles_a_split
from tests.kernels import on_host

needs_compiler = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.uniform(0, 1, shape)


def read(case: KernelCase) -> np.ndarray:
    """By the kernels."""
    return on_host.outputs(KERNEL, case)["out"]


def truth(case: KernelCase) -> np.ndarray:
    """By the reference."""
    return KERNEL.reference(**case.arrays)["out"]


def changed(case: KernelCase, **arrays: np.ndarray) -> KernelCase:
    return replace(case, arrays={**case.arrays, **arrays})


def of_keys(case: KernelCase, chosen: np.ndarray) -> KernelCase:
    """The case with these of its keys, in this order."""
    named = {name: case.arrays[name][:, chosen] for name in ("key", "value", "weight")}
    return changed(case, **named)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_the_reference_divides_what_the_graph_divides() -> None:
    case = memory_read.case(2, 11, 70, uniform, scale=2.0)
    case.arrays["weight"][:, ::3] = 0
    q, k, v = (torch.from_numpy(from_bits(case.arrays[n])) for n in ("query", "key", "value"))
    weight = torch.from_numpy(case.arrays["weight"])[..., None]
    found = attention(q, k, torch.cat([v * weight, weight], -1), 1)
    graph = (found[..., :-1] / found[..., -1:]).numpy()
    assert error(graph, truth(case)) < 1e-5


@needs_compiler
def test_a_weight_of_zero_is_a_key_that_is_not_there() -> None:
    case = memory_read.case(2, 20, 200, uniform)
    seen = np.random.default_rng(0).random(200) < 0.5
    seen[KEYS : 2 * KEYS] = False
    # what is masked would win by far if it were seen
    key, value = case.arrays["key"].copy(), case.arrays["value"].copy()
    key[:, ~seen], value[:, ~seen] = to_bits(from_bits(case.arrays["query"][:, :1]) * 50), 0x4300
    masked = changed(case, key=key, value=value, weight=case.arrays["weight"] * seen)
    wanted = truth(of_keys(case, seen))
    assert error(truth(masked), wanted) < 1e-6
    assert error(read(masked), wanted) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize("target", [1, 3, 1000])
def test_the_number_of_splits_does_not_matter(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = memory_read.case(2, 18, 300, uniform, scale=4.0)
    case.arrays["weight"][1, KEYS : 5 * KEYS] = 0  # splits of nothing else among them
    monkeypatch.setattr(memory_read, "BLOCKS", 2 * target)
    monkeypatch.setattr(memory_read, "FEWEST_TILES", 1)
    found = on_host.outputs(KERNEL, case)
    assert len(found["best"]) == min(target, 10)
    assert error(found["out"], truth(case)) <= TOLERANCE / 2


@needs_compiler
def test_the_order_of_keys_does_not_matter() -> None:
    case = memory_read.case(1, 33, 170, uniform, scale=4.0)
    order = np.random.default_rng(1).permutation(170)
    rising = np.argsort(from_bits(case.arrays["key"][0]) @ from_bits(case.arrays["query"][0, 0]))
    for chosen in (order, rising, rising[::-1]):
        assert error(read(of_keys(case, chosen)), truth(case)) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (15, 31), (17, 33), (128, 64), (129, 129)])
def test_ragged_edges(queries: int, keys: int) -> None:
    case = memory_read.case(1, queries, keys, uniform)
    assert error(read(case), truth(case)) <= TOLERANCE


@needs_compiler
def test_equal_shares_give_the_mean_and_one_key_its_value() -> None:
    # Shares are then powers of two, and nothing is rounded to bfloat16.
    case = memory_read.case(1, 5, 77, lambda rng, shape: np.full(shape, 0.25))
    case = changed(case, query=np.zeros_like(case.arrays["query"]))
    values = from_bits(case.arrays["value"])
    mean = np.broadcast_to(values.mean(1, keepdims=True), (1, 5, 64))
    assert error(read(case), mean) < 1e-6
    alone = changed(case, weight=np.eye(1, 77, 40, dtype=np.float32) * np.float32(1e-30))
    np.testing.assert_array_equal(read(alone), np.broadcast_to(values[:, 40:41], (1, 5, 64)))


@needs_compiler
def test_where_no_key_is_seen_the_result_is_zero() -> None:
    case = memory_read.case(3, 4, 150, uniform)
    case.arrays["weight"][1] = 0
    for found in (read(case), truth(case)):
        assert (found[1] == 0).all()
        assert found[[0, 2]].all()


@needs_compiler
def test_weights_count_by_their_proportions() -> None:
    case = memory_read.case(1, 9, 100, uniform)
    larger = changed(case, weight=case.arrays["weight"] * np.float32(2.0**100))
    np.testing.assert_array_equal(truth(larger), truth(case))
    assert error(read(larger), read(case)) < TOLERANCE
    twice = of_keys(case, np.repeat(np.arange(100), 2))
    halved = changed(twice, weight=twice.arrays["weight"] / 2)
    assert error(read(halved), truth(case)) <= TOLERANCE


@needs_compiler
def test_logits_of_thousands_neither_overflow_nor_vanish() -> None:
    case = memory_read.case(1, 10, 200, uniform, scale=3000.0)
    for sign in (0, 0x8000):
        signed = changed(case, query=case.arrays["query"] ^ np.uint16(sign))
        assert error(read(signed), truth(signed)) < 1e-4


COUNT = st.integers(1, 3000)


@given(b=st.integers(1, 40), queries=COUNT, keys=st.integers(1, 10**5))
def test_splits_cover_every_key_once_and_none_is_empty(b: int, queries: int, keys: int) -> None:
    shapes = {"query": (b, queries, 256), "key": (b, keys, 256)}
    split, merge = KERNEL.plan(shapes, {})
    tiles_of_queries, splits, rows = split.grid
    assert (tiles_of_queries - 1) * QUERIES < queries <= tiles_of_queries * QUERIES
    assert rows == b
    length = KEYS * tiles_a_split(shapes)
    assert (splits - 1) * length < keys <= splits * length
    assert merge.arguments[-2] == splits


def test_the_workload_keeps_an_h100_busy_and_a_batch_is_not_split_further() -> None:
    (split, _) = KERNEL.planned(KERNEL.workload())
    assert split.grid == (8, 16, 1)
    shapes = {"query": (16, 1024, 256), "key": (16, 7232, 256)}
    assert KERNEL.plan(shapes, {})[0].grid == (8, 1, 16)


TENSOR_CORES = b"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"


def ptx(architecture: str) -> bytes:
    """Of the source, by NVRTC itself: cuda-core gives it only where there is a driver."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    options = [f"--gpu-architecture={architecture}".encode(), f"--include-path={FOLDER}".encode()]
    _, program = nvrtc.nvrtcCreateProgram(KERNEL.path.read_bytes(), b"", 0, [], [])
    assert nvrtc.nvrtcCompileProgram(program, len(options), options)[0] == 0
    code = bytes(nvrtc.nvrtcGetPTXSize(program)[1])
    nvrtc.nvrtcGetPTX(program, code)
    return code


@pytest.mark.parametrize(
    ("architecture", "has_them"), [("compute_75", False), ("compute_80", True)]
)
def test_tensor_cores_multiply_where_there_are_such(architecture: str, has_them: bool) -> None:
    code = ptx(architecture)
    assert (TENSOR_CORES in code) == (b"cp.async" in code) == has_them
