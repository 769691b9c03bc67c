"""Video files for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4") -> None:
    """Frames uint8 (y, x, 3) of even sides, compressed with little loss."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5, bit_rate=8_000_000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
