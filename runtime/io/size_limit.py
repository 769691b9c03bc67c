"""How large a volume may become, and the arrays that readers put voxels into.

A file's header promises a size before its voxels are there, and packed voxels can be a thousand times as large as the
file. Who reads files of others, as a server does, bounds them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError

Take = Callable[[int], None]
"""Told how many bytes are about to be taken; refuses by an error of its own."""


def _freely(num_bytes: int) -> None:
    """Take them as they are allowed."""


_bound: ContextVar[tuple[int, Take] | None] = ContextVar("bound of a volume", default=None)


@contextmanager
def no_larger_than(max_bytes: int, take: Take = _freely) -> Iterator[None]:
    """Within this context of this thread, readers refuse volumes of more bytes before they make room for them.

    Of others `take` is told before.
    """
    token = _bound.set((max_bytes, take))
    try:
        yield
    finally:
        _bound.reset(token)


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], source: Path) -> NDArray[Any]:
    """An array for the voxels of a file.

    Raises VolumeError for one that is larger than is allowed here, and what is raised by whoever is told.
    """
    wanted = prod(shape) * dtype.itemsize
    most, take = _bound.get() or (wanted, _freely)
    if wanted > most:
        raise VolumeError(
            f"{source}: its {' x '.join(map(str, shape))} voxels take {wanted / 2**20:.0f} MiB; wanted at most "
            f"{most / 2**20:.0f}; crop it, or read it where there is more room"
        )
    take(wanted)
    return np.empty(shape, dtype)
