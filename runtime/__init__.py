"""Segment medical volumes, image sets and videos from one prompt, without torch.

Example:
    from runtime import Box, VolumePredictor, load, read_volume, write_mask

    volume = read_volume("ct.nii.gz")
    predictor = VolumePredictor(load())
    predictor.set_volume(volume)
    predictor.add(Box(slice=57, y=(200, 260), x=(180, 250)))
    write_mask("lesion.nii.gz", predictor.propagate(), like=volume)
"""

from runtime.errors import Sam2Error
from runtime.io import Volume, read_volume, write_mask
from runtime.memory import MemoryRules
from runtime.model import Model, load
from runtime.predictors import FlowPredictor, ImagePredictor, VideoPredictor, VolumePredictor
from runtime.prompts import Box, Mask, Point
from runtime.result import Result, SliceMask
from runtime.version import __version__

__all__ = [
    "Box",
    "FlowPredictor",
    "ImagePredictor",
    "Mask",
    "MemoryRules",
    "Model",
    "Point",
    "Result",
    "Sam2Error",
    "SliceMask",
    "VideoPredictor",
    "Volume",
    "VolumePredictor",
    "__version__",
    "load",
    "read_volume",
    "write_mask",
]
