"""What `medsam2 segment` does with each kind of input, from files to files and a report."""

from runtime.jobs.images import segment_images
from runtime.jobs.job import KINDS, Job, kind_of
from runtime.jobs.video import segment_video
from runtime.jobs.volume import segment_volume

__all__ = ["KINDS", "Job", "kind_of", "segment_images", "segment_video", "segment_volume"]
