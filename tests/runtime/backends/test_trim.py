"""What engines keep of their largest run: nothing once they are trimmed, and they run on as before."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from runtime.bundle.contract import graph_specs
from runtime.model import Model, load
from tests.fakes import fake_model

GRAPH = "memory_attention"
LARGE, SMALL = {"b": 8, "k": 7, "p": 16}, {"b": 1, "k": 2, "p": 2}
LEAST_MIB = 10  # of some 35 that the large run takes


@pytest.fixture(params=["ort", "openvino"])
def model(request: pytest.FixtureRequest) -> Model:
    return load(backend=request.param, threads=1)


def attended(model: Model, axes: dict[str, int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.random(spec.bind(axes)).astype(spec.dtype)
        for name, spec in graph_specs(model.numbers)[GRAPH].inputs.items()
    }
    return np.array(model.condition(**inputs))


def resident_mib() -> float:
    ctypes.CDLL(None).malloc_trim(
        0
    )  # so that what engines keep is told from what the allocator does
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_trimmed_engine_gives_back_what_its_largest_run_took(model: Model) -> None:
    before = attended(model, SMALL)
    attended(model, LARGE)
    held = resident_mib()
    model.trim()
    assert resident_mib() < held - LEAST_MIB
    np.testing.assert_array_equal(attended(model, SMALL), before)


def test_a_run_that_is_under_way_is_not_disturbed(model: Model) -> None:
    wanted = attended(model, LARGE)
    found: list[np.ndarray] = []
    thread = Thread(target=lambda: found.extend(attended(model, LARGE) for _ in range(4)))
    thread.start()
    while thread.is_alive():
        model.trim()
    assert len(found) == 4
    for one in found:
        np.testing.assert_array_equal(one, wanted)


def test_engines_may_be_trimmed_before_a_run_twice_and_after_their_end(model: Model) -> None:
    model.engine(GRAPH)
    engine = model.engine("mask_decoder")
    model.trim()
    model.trim()
    attended(model, SMALL)
    held = [model.engine(GRAPH), engine]
    model.close()
    for one in held:
        one.trim()  # type: ignore[attr-defined]


def test_an_engine_that_keeps_nothing_need_not_be_trimmed() -> None:
    model = fake_model()[0]
    model.engine(GRAPH)
    model.trim()
