"""What the page downloads: the masks of all its objects as one file."""

from __future__ import annotations

from dataclasses import replace

from runtime.errors import InputError
from runtime.files.scratch import scratch_folder
from runtime.io.dicom.seg import SegmentationOptions, write_segmentation
from runtime.io.write import write_mask
from runtime.serve.page_session import PageSession
from runtime.serve.shown_volume import ShownVolume

LABELS = ("nii.gz", "nrrd")
SEGMENTATION = "dcm"
EXPORTS = (*LABELS, SEGMENTATION)
"""Suffixes: labels 1, 2, ... in one file, and a DICOM segmentation of the images that the volume came from."""


def check_export(shown: ShownVolume, suffix: str) -> None:
    """Raise InputError unless masks of a volume can be written so."""
    if suffix not in EXPORTS:
        raise InputError(f"found the format {suffix[:20]!r}; wanted {' or '.join(EXPORTS)}")
    if suffix == SEGMENTATION and isinstance(shown.sources, str):
        raise InputError(shown.sources)


def export_bytes(page: PageSession, suffix: str) -> int:
    """About how much memory an export takes: segments that overlap are written from a mask each."""
    each = len(page.objects()) if suffix == SEGMENTATION else 1
    return (1 + each) * page.need_volume().volume.array.size


def exported(page: PageSession, suffix: str, options: SegmentationOptions) -> bytes:
    """All objects as the bytes of a file.

    Args:
        page: whose objects they are.
        suffix: one of `EXPORTS`.
        options: of a DICOM segmentation, whose segments are called as the objects are.

    Raises InputError for a DICOM segmentation without a mask or of what is no DICOM, and as the writers do.
    """
    shown, masks = page.need_volume(), page.masks()
    check_export(shown, suffix)
    with scratch_folder() as folder:
        path = folder / f"masks.{suffix}"
        if suffix in LABELS:
            write_mask(path, masks.labels(), shown.volume)
        elif not masks.crops:
            raise InputError(
                "found no mask yet, and DICOM-SEG holds at least one; click an object first"
            )
        elif not isinstance(shown.sources, str):
            named = replace(options, names=masks.names)
            write_segmentation(path, masks, shown.volume, named, sources=shown.sources)
        return path.read_bytes()
