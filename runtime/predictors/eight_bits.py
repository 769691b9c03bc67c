"""A volume as predictors hold it: eight bits a voxel, on the device where that costs nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import is_device_array
from runtime.devices.memory import DeviceMemory
from runtime.io.volumes.volume import Volume
from runtime.io.window import Window, apply_window


def eight_bits(
    memory: DeviceMemory,
    volume: Volume | NDArray[np.generic],
    window: str | Window,
    *,
    is_on_host: bool = False,
) -> tuple[NDArray[np.uint8], Window]:
    """Pixels (z, y, x) after their window, and the window used; on the device if they were there and need no change.

    `is_on_host` brings them to the host in any case. Raises VolumeError or InputError.
    """
    if is_device_array(volume):
        taken = memory.take(volume)
        if taken.ndim == 3 and taken.dtype == np.uint8 and window in ("auto", "none"):
            return memory.get(taken) if is_on_host else taken, Window("none")
        volume = memory.get(taken)
    read = volume if isinstance(volume, Volume) else Volume.from_array(volume)
    return apply_window(read, window)
