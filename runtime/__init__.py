"""Segment medical volumes, image sets and videos from one prompt, without torch.

Example:
    from runtime import Box, VolumePredictor, load, read_volume, write_mask

    volume = read_volume("ct.nii.gz")
    predictor = VolumePredictor(load())
    predictor.set_volume(volume)
    predictor.add(Box(slice=57, y=(200, 260), x=(180, 250)))
    write_mask("lesion.nii.gz", predictor.propagate(), like=volume)
"""

from __future__ import annotations

import os

# ONNX Runtime tells its makers of every session, on Linux since 1.31 at the latest, from the moment it is imported;
# its own `disable_telemetry_events` comes too late. Who works on patients' scans tells nobody of it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.errors import Sam2Error
    from runtime.io import Volume, read_volume, write_mask
    from runtime.memory import MemoryRules
    from runtime.model import Model, load
    from runtime.predictors import FlowPredictor, ImagePredictor, VideoPredictor, VolumePredictor
    from runtime.predictors.result import Result, SliceMask
    from runtime.predictors.slicewise import SlicewisePredictor
    from runtime.predictors.stop import StopRule
    from runtime.prompts.prompts import Box, Mask, Point
    from runtime.serve.session import InteractiveSession
    from runtime.version import __version__

HOMES = {
    "Box": "runtime.prompts.prompts",
    "FlowPredictor": "runtime.predictors",
    "ImagePredictor": "runtime.predictors",
    "InteractiveSession": "runtime.serve.session",
    "Mask": "runtime.prompts.prompts",
    "MemoryRules": "runtime.memory",
    "Model": "runtime.model",
    "Point": "runtime.prompts.prompts",
    "Result": "runtime.predictors.result",
    "Sam2Error": "runtime.errors",
    "SliceMask": "runtime.predictors.result",
    "SlicewisePredictor": "runtime.predictors.slicewise",
    "StopRule": "runtime.predictors.stop",
    "VideoPredictor": "runtime.predictors",
    "Volume": "runtime.io",
    "VolumePredictor": "runtime.predictors",
    "__version__": "runtime.version",
    "load": "runtime.model",
    "read_volume": "runtime.io",
    "write_mask": "runtime.io",
}
"""Public name to the module that is imported when it is first asked for: a command has to be able to handle an
interrupt before numpy and its like are imported."""

__all__ = [
    "Box",
    "FlowPredictor",
    "ImagePredictor",
    "InteractiveSession",
    "Mask",
    "MemoryRules",
    "Model",
    "Point",
    "Result",
    "Sam2Error",
    "SliceMask",
    "SlicewisePredictor",
    "StopRule",
    "VideoPredictor",
    "Volume",
    "VolumePredictor",
    "__version__",
    "load",
    "read_volume",
    "write_mask",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
