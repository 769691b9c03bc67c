"""Volumes in, label masks out."""

from runtime.io.read import read_volume
from runtime.io.volumes.volume import Volume
from runtime.io.write import check_mask_path, write_mask

__all__ = ["Volume", "check_mask_path", "read_volume", "write_mask"]
