from __future__ import annotations

import numpy as np
import pytest

from runtime.backends.lowering.typed_graph import PRECISIONS
from runtime.backends.lowering.typed_rules import computes_in, fits


@pytest.mark.parametrize(
    ("half", "values", "fitting"),
    [
        ("float16", [65504, -1], True),
        ("float16", [65505], False),
        ("float16", [-1e9, 0], False),
        ("float16", [np.nan], False),
        ("float16", [1e-9, 1], True),
        ("float16", [1e-9, 1e-6], False),
        ("float16", [0, 0], True),
        ("float16", [], True),
        ("bfloat16", [1e6, -1e9, 1e-30], True),
        ("bfloat16", [np.inf], False),
        ("bfloat16", [3.4e38], False),
    ],
)
def test_what_half_holds(half: str, values: list[float], fitting: bool) -> None:
    assert fits(np.array(values, np.float32), half) == fitting


BIAS, TABLE, SCALE = np.ones(8), np.ones((1, 4, 8)), np.ones(1)


@pytest.mark.parametrize(
    ("kind", "computed", "constants", "chosen"),
    [
        ("MatMul", ["float32"], [TABLE], "float16"),
        ("MatMul", ["float32", "float16"], [], "float16"),
        ("MatMul", ["float32"], [1e6 * TABLE], "float32"),
        ("Add", ["float16"], [BIAS], "float16"),
        ("Add", ["float16"], [TABLE], "float32"),
        ("Add", ["float16", "float16"], [], "float32"),
        ("Mul", ["float16"], [SCALE], "float16"),
        ("Mul", ["float16"], [BIAS], "float32"),
        ("Concat", ["float16", "float16"], [TABLE], "float16"),
        ("Concat", ["float16", "float32"], [], "float32"),
        ("Concat", [], [], "float32"),
        ("Softmax", ["float16"], [], "float32"),
    ],
)
def test_what_an_operator_computes_in(
    kind: str, computed: list[str], constants: list[np.ndarray], chosen: str
) -> None:
    assert computes_in(kind, "float16", computed, constants) == chosen
    assert computes_in(kind, None, ["float32"] * len(computed), constants) == "float32"


def test_which_graphs_are_lowered() -> None:
    lowered = {name: precision.graphs for name, precision in PRECISIONS.items()}
    readers = ("image_encoder", "memory_attention")
    assert lowered == {
        "fp32": (),
        "bf16": (*readers, "memory_encoder"),
        "fp16": (*readers, "memory_encoder"),
        "mixed": readers,
    }
    assert all(name == precision.name for name, precision in PRECISIONS.items())
