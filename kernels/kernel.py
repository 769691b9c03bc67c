"""What a CUDA kernel of ours is: a numpy reference, a source, a plan of launches, and cases that all must agree on.

A plan is data. It names tensors and holds numbers, so that the same plan runs on a GPU (`kernels.device`), is compiled
for the host and run in tests without one, and can be captured into a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
Arrays = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Numbers = Mapping[str, Any]
Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a CUDA function.

    Attributes:
        entry: name of the `__global__` function.
        grid, block: blocks and threads along x, y, z.
        arguments: in order: a tensor by its name, or a number as a numpy scalar of the parameter's type.
    """

    entry: str
    grid: Three
    block: Three
    arguments: tuple[str | np.generic, ...]


@dataclass(frozen=True, slots=True)
class KernelCase:
    """Inputs of a kernel: arrays and numbers by the reference's parameter names."""

    arrays: Arrays
    numbers: Numbers = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays."""
        return {name: array.shape for name, array in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A CUDA kernel with its reference in numpy.

    Attributes:
        name: what it is called in tests and benchmarks.
        source: file of the CUDA source beside this one.
        reference: arrays and numbers to outputs by name, in numpy; it is what runs on a CPU.
        outputs: shapes of the inputs and numbers to shape and dtype of each tensor that launches write.
        plan: shapes of all tensors and numbers to launches.
        cases: seeded inputs by name.
        workload: a case of the size that counts: SAM 2.1 at 512 pixels.
        tolerance: largest difference from the reference, as a share of its largest magnitude; 0 is the same bits.
        tables: shapes and numbers to constant arrays that launches read as well.
        starts_from: output to the input whose contents it has before the launches.
    """

    name: str
    source: str
    reference: Callable[..., Arrays]
    outputs: Callable[[Shapes, Numbers], Mapping[str, tuple[tuple[int, ...], str]]]
    plan: Callable[[Shapes, Numbers], Sequence[Launch]]
    cases: Mapping[str, Callable[[], KernelCase]]
    workload: Callable[[], KernelCase]
    tolerance: float = 0.0
    tables: Callable[[Shapes, Numbers], Arrays] = lambda shapes, numbers: {}
    starts_from: Mapping[str, str] = field(default_factory=dict)

    def bytes_moved(self, case: KernelCase) -> int:
        """What has to be read and written at the least: every input and output once."""
        read = sum(array.nbytes for array in case.arrays.values())
        outputs = self.outputs(case.shapes, case.numbers).values()
        return read + sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in outputs)

    @property
    def path(self) -> Path:
        """Path of the CUDA source."""
        return FOLDER / self.source

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of all functions that the cases launch."""
        names: dict[str, None] = {}
        for make in self.cases.values():
            case = make()
            names.update(dict.fromkeys(launch.entry for launch in self.planned(case)))
        return tuple(names)

    def planned(self, case: KernelCase) -> Sequence[Launch]:
        """The launches for a case."""
        written = {
            name: shape for name, (shape, _) in self.outputs(case.shapes, case.numbers).items()
        }
        return self.plan({**case.shapes, **written}, case.numbers)


def blocks(count: int, size: int) -> int:
    """Blocks of `size` threads that cover `count`."""
    return -(-count // size)
