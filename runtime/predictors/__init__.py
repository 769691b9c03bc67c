"""What users hold: predictors for volumes, image sets, videos and single images."""

from runtime.predictors.flow import FlowPredictor
from runtime.predictors.image import ImagePredictor
from runtime.predictors.video import VideoPredictor
from runtime.predictors.volume import VolumePredictor

__all__ = ["FlowPredictor", "ImagePredictor", "VideoPredictor", "VolumePredictor"]
