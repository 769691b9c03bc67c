"""Every CUDA kernel against its numpy reference, on the host; and every source compiled for every GPU there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels.catalogue import KERNELS
from kernels.kernel import FOLDER, Kernel
from tests.kernels import on_host

SOURCES = sorted(FOLDER.glob("*.cu"))
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
CASES = [(kernel, name) for kernel in KERNELS for name in kernel.cases]

needs_compiler = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "name"), CASES, ids=[f"{kernel.name}-{name}" for kernel, name in CASES]
)
def test_a_kernel_computes_what_its_reference_does(kernel: Kernel, name: str) -> None:
    case = kernel.cases[name]()
    wanted = kernel.reference(**case.arrays, **case.numbers)
    found = on_host.outputs(kernel, case)
    assert wanted.keys() <= found.keys()
    for output, truth in wanted.items():
        assert found[output].shape == truth.shape and found[output].dtype == truth.dtype
        if kernel.tolerance:
            largest = max(float(np.abs(truth).max()), 1e-6)
            assert np.abs(found[output] - truth).max() <= kernel.tolerance * largest
        else:
            np.testing.assert_array_equal(found[output], truth)


def test_every_kernel_of_every_source_is_launched_by_some_case() -> None:
    launched = {entry for kernel in KERNELS for entry in kernel.entries}
    defined = {entry for source in SOURCES for entry in on_host.entries(source)}
    assert launched == defined


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_source_compiles_for_every_gpu(source: Path, architecture: str) -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    options = core.ProgramOptions(arch=architecture, include_path=str(FOLDER))
    code = core.Program(source.read_text(), "c++", options).compile("cubin").code
    for entry in on_host.entries(source):
        assert entry.encode() in code
