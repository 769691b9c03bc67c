"""CUDA kernels without a GPU: their sources compiled for the host, and their plans run there."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from kernels.kernel import FOLDER, Kernel, KernelCase, Launch

HEADER = Path(__file__).with_name("cuda_on_host.h")
ENTRY = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\w+\) )?(\w+)')
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w")

COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)


def entries(source: Path) -> list[str]:
    """Kernels that a source defines."""
    return ENTRY.findall(source.read_text())


@cache
def compiled(source: Path) -> ctypes.CDLL:
    """A source as a library for the host."""
    assert COMPILER is not None
    folder = Path(mkdtemp())
    unit, library = folder / "unit.cpp", folder / "unit.so"
    names = "".join(f"ON_HOST({entry})\n" for entry in entries(source))
    unit.write_text(f'#include "{HEADER}"\n#include "{source}"\n{names}')
    command = [COMPILER, *FLAGS, f"-I{FOLDER}", str(unit), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def run(source: Path, launches: Sequence[Launch], tensors: Mapping[str, np.ndarray]) -> None:
    """Run launches on host arrays."""
    library = compiled(source)
    for launch in launches:
        kept: list[Any] = []
        for argument in launch.arguments:
            if isinstance(argument, str):
                kept.append(np.array([tensors[argument].ctypes.data], np.uint64))
            else:
                kept.append(np.array([argument]))
        pointers = (ctypes.c_void_p * len(kept))(*(each.ctypes.data for each in kept))
        sizes = ((ctypes.c_int * 3)(*side) for side in (launch.grid, launch.block))
        getattr(library, f"host_{launch.entry}")(*sizes, pointers)


def outputs(kernel: Kernel, case: KernelCase) -> dict[str, np.ndarray]:
    """What a kernel's launches write for a case; what they do not write stays at a mark."""
    tensors = {name: np.ascontiguousarray(array) for name, array in case.arrays.items()}
    tensors |= kernel.tables(case.shapes, case.numbers)
    made = {}
    for name, (shape, dtype) in kernel.outputs(case.shapes, case.numbers).items():
        made[name] = np.full(shape, 77, dtype)
        if (before := kernel.starts_from.get(name)) is not None:
            made[name][...] = tensors[before]
    run(kernel.path, kernel.planned(case), {**tensors, **made})
    return made
