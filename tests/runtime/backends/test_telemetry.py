"""Nobody hears of what runs here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import numpy as np
from runtime import Box, VolumePredictor, load
predictor = VolumePredictor(load(threads=1))
predictor.set_volume(np.zeros((1, 32, 32), np.uint8))
predictor.add(Box(slice=0, y=(4, 20), x=(4, 20)))
predictor.propagate()
"""


def test_libraries_tell_nobody_and_leave_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")
        variables = os.environ | dict.fromkeys(names, address) | {"TMPDIR": str(tmp_path)}
        variables.pop("ORT_DISABLE_TELEMETRY", None)
        subprocess.run([sys.executable, "-c", RUN], check=True, env=variables)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert os.listdir(tmp_path) == []
