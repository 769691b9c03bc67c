"""DICOM in: a folder's series, the frames of one object, single images, segmentations; segmentations out.

pydicom follows the elements of a header; what they say is checked here, before any pixel is read.
"""

from runtime.io.dicom.folder import frame_count
from runtime.io.dicom.image import holds_image, read_dicom_image
from runtime.io.dicom.read_seg import read_segmentation
from runtime.io.dicom.series import read_dicom_file, read_series
from runtime.io.dicom.transfer_syntax import begins_as_dicom, is_dicom

__all__ = [
    "begins_as_dicom",
    "frame_count",
    "holds_image",
    "is_dicom",
    "read_dicom_file",
    "read_dicom_image",
    "read_segmentation",
    "read_series",
]
