"""What users hold: predictors for volumes and single images."""

from runtime.predictors.image import ImagePredictor
from runtime.predictors.volume import VolumePredictor

__all__ = ["ImagePredictor", "VolumePredictor"]
