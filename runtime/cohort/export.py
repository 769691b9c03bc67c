"""Labels that somebody has accepted: NIfTI pairs, DICOM Segmentations, RT Structure Sets, MedSAM2's training files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cohort.review import Decision, Decisions, Review
from runtime.cohort.study import fitting
from runtime.errors import InputError, PromptError, Sam2Error
from runtime.files.atomic import write_bytes, write_whole
from runtime.files.scratch import scratch_folder
from runtime.io.dicom import is_dicom, read_segmentation
from runtime.io.dicom.codes import ABNORMAL, LESION, Code
from runtime.io.dicom.query import parse_choice
from runtime.io.dicom.rtstruct import write_structures
from runtime.io.dicom.seg import SegmentationOptions, write_segmentation
from runtime.io.dicom.web import DicomWeb
from runtime.io.read import read_volume
from runtime.io.volumes.itk import sitk
from runtime.io.volumes.nifti_forms import AFFINES
from runtime.io.volumes.npz import read_npz, read_npz_labels
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window
from runtime.io.write import STRUCTURES_SUFFIX, write_mask
from runtime.prompts.label_map import check_place
from runtime.prompts.prompt_file import NAMES

NIFTI = ".nii.gz"
PLAIN = SegmentationOptions()


@dataclass(frozen=True, slots=True)
class LabelledStudy:
    """A study with what is taken of its objects.

    Attributes:
        name: of the study.
        path: of its volume.
        volume: the same, read.
        masks: (z, y, x) of each object by id, which may overlap.
        window: in which the network saw it.
        affine: which of NIfTI's was taken, where that had to be said.
        codes, categories: what objects are, as far as the cohort's masks say it.
    """

    name: str
    path: Path
    volume: Volume
    masks: Mapping[int, NDArray[np.bool_]]
    window: str = "auto"
    affine: str | None = None
    codes: Mapping[int, Code] = field(default_factory=dict)
    categories: Mapping[int, Code] = field(default_factory=dict)

    def named(self, options: SegmentationOptions) -> SegmentationOptions:
        """How it is written as DICOM: what the options say goes before what masks say."""
        # The defaults themselves are what nobody has said.
        codes = self.codes if options.code is LESION else {}
        categories = self.categories if options.category is ABNORMAL else {}
        return options.naming(codes, categories)

    @property
    def object_ids(self) -> Sequence[int]:
        """The objects that are taken, lowest first; some may have no voxel."""
        return sorted(self.masks)

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one object."""
        return self.masks[object_id]

    def labels(self) -> NDArray[Any]:
        """Object ids (z, y, x), uint8 or uint16, 0 outside; where objects overlap, the highest."""
        labels = np.zeros(self.volume.shape, np.min_scalar_type(max(self.masks)))
        for object_id in self.object_ids:
            labels[self.masks[object_id]] = object_id
        return labels

    @property
    def num_objects(self) -> int:
        """With a voxel."""
        return sum(bool(mask.any()) for mask in self.masks.values())

    @property
    def num_overlapping(self) -> int:
        """Voxels of more than one object."""
        inside = sum(int(np.count_nonzero(mask)) for mask in self.masks.values())
        return inside - int(np.count_nonzero(self.labels()))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A study without an object that is taken, or one that cannot be read, and why."""

    name: str
    error: str = ""


def taken(entry: Mapping[str, Any], decision: Decision | None, takes_all: bool) -> bool:
    """Whether an object is taken: somebody has accepted or corrected it, or with `takes_all` not rejected it.

    Of what nobody has decided, objects that were found nowhere are left out.
    """
    if decision is None:
        return takes_all and entry["voxels"] > 0
    return decision.verdict != "rejected"


def labelled(review: Review, takes_all: bool) -> Iterator[LabelledStudy | LeftOut]:
    """The studies of a cohort, one at a time, the most doubtful first.

    Args:
        review: of the cohort.
        takes_all: whether undecided objects are taken.
    """
    decisions = review.latest()
    window, affine = review.about("window") or "auto", review.about("affine") or None
    for study in review.studies():
        chosen = {
            entry["id"]: decisions.get((study["name"], entry["id"]))
            for entry in study["told"]["objects"]
            if taken(entry, decisions.get((study["name"], entry["id"])), takes_all)
        }
        if not chosen:
            yield LeftOut(study["name"])
            continue
        with ExitStack() as stack:
            try:
                path, volume = stack.enter_context(opened(review, study))
                masks = decided_mask(review.folder, study, volume, decisions)
            except Sam2Error as error:
                yield LeftOut(study["name"], str(error))
                continue
            codes, categories = (
                {e["id"]: Code.parse(e[name]) for e in study["told"]["objects"] if name in e}
                for name in NAMES
            )
            kept = {object_id: masks[object_id] for object_id in chosen}
            yield LabelledStudy(
                study["name"], path, volume, kept, window, affine, codes, categories
            )


@contextmanager
def opened(review: Review, study: Mapping[str, Any]) -> Iterator[tuple[Path, Volume]]:
    """Where a study of a cohort lies, and its volume; what comes from a DICOMweb server lies there for that long.

    Raises InputError and MissingInput where it is not what it was, Sam2Error where the server does not answer.
    """
    path, affine = Path(study["path"]), review.about("affine") or None
    series = parse_choice((review.about("series") or "").splitlines())
    server = review.about("input") or ""
    if not server.startswith(("http://", "https://")):
        yield path, read_volume(path, **fitting(path, series, affine))
        return
    with scratch_folder() as folder:
        DicomWeb(server).fetch(path.as_posix(), folder)
        yield folder, read_volume(folder)


def object_masks(
    folder: Path, study: Mapping[str, Any], volume: Volume
) -> dict[int, NDArray[np.bool_]]:
    """The masks (z, y, x) of a study's objects as the cohort has them. Raises what the readers raise."""
    path = folder / study["mask"]
    ids = [entry["id"] for entry in study["told"]["objects"]]
    if is_dicom(path):
        segments = read_segmentation(path, like=volume)  # numbered from 1 by increasing id
        return {i: segments.mask(number) for number, i in enumerate(sorted(ids), 1)}
    array = _on_grid(path, volume)
    return {i: array == i for i in ids}


def decided_mask(
    folder: Path, study: Mapping[str, Any], volume: Volume, decisions: Decisions
) -> dict[int, NDArray[np.bool_]]:
    """The same, with corrections in place of what they correct."""
    masks = object_masks(folder, study, volume)
    for object_id in masks:
        decision = decisions.get((study["name"], object_id))
        if decision and decision.corrected:
            masks[object_id] = _on_grid(folder / decision.corrected, volume) != 0
    return masks


def _on_grid(path: Path, volume: Volume) -> NDArray[Any]:
    """A mask (z, y, x) of a volume. Raises InputError where the volume is another by now."""
    mask = read_volume(path, affine=_affine_of(volume, path))
    try:
        check_place(mask, volume, path)
    except PromptError as error:
        raise InputError(
            f"{error}; the study was changed since: give medsam2 cohort again, which makes its masks anew"
        ) from error
    return mask.array


def _affine_of(volume: Volume, path: Path) -> str | None:
    """Which affine of a NIfTI mask is right: the one that was right in its volume."""
    forms = volume.nifti
    is_both = forms is not None and path.name.endswith(NIFTI) and forms.taken in AFFINES
    return forms.taken if forms is not None and is_both else None


def export_nifti(
    folder: Path, study: LabelledStudy, options: SegmentationOptions = PLAIN
) -> list[Path]:
    """`images/NAME.nii.gz`, byte for byte where it is one already, and `labels/NAME.nii.gz`."""
    image, labels = (folder / kind / f"{study.name}{NIFTI}" for kind in ("images", "labels"))
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    if study.path.name.lower().endswith(NIFTI):
        write_bytes(image, study.path.read_bytes())
    else:
        write_whole(
            image,
            lambda part: _write_image(part, study.volume),
            lambda part: _check(part, image, study.volume),
        )
    write_mask(labels, study.labels(), read_volume(image, affine=study.affine))
    return [image, labels]


def _write_image(part: Path, volume: Volume) -> None:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(part))
    writer.SetUseCompression(True)
    writer.Execute(volume.to_image())


def _check(part: Path, path: Path, volume: Volume) -> None:
    there = read_volume(part)
    if not np.array_equal(there.array, volume.array, equal_nan=volume.array.dtype.kind == "f"):
        raise Sam2Error(f"{path} could not be written: read back, it differs; is the disk full?")


def export_segmentation(
    folder: Path, study: LabelledStudy, options: SegmentationOptions = PLAIN
) -> list[Path]:
    """`NAME.dcm`, of studies that are DICOM. Raises InputError for others."""
    path = folder / f"{study.name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(path, study, study.volume, study.named(options))
    return [path]


def export_structures(
    folder: Path, study: LabelledStudy, options: SegmentationOptions = PLAIN
) -> list[Path]:
    """`NAME.rtstruct.dcm`, of studies that are DICOM. Raises InputError for others."""
    path = folder / f"{study.name}{STRUCTURES_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_structures(path, study, study.volume, study.named(options))
    return [path]


def export_npz(
    folder: Path, study: LabelledStudy, options: SegmentationOptions = PLAIN
) -> list[Path]:
    """`NAME.npz` as MedSAM2 trains on: imgs (uint8) and gts (z, y, x); spacing, origin and direction in (x, y, z)."""
    path = folder / f"{study.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    volume, labels = study.volume, study.labels()
    pixels, _ = apply_window(volume, study.window)
    arrays: dict[str, Any] = {
        "imgs": pixels,
        "gts": labels,
        "spacing": np.array(volume.spacing_mm[::-1]),
        "origin": np.array(volume.origin_mm),
        "direction": np.array(volume.direction),
    }

    def check(part: Path) -> None:
        same = np.array_equal(read_npz(part).array, pixels)
        if not same or not np.array_equal(read_npz_labels(part), labels):
            raise Sam2Error(
                f"{path} could not be written: read back, it differs; is the disk full?"
            )

    write_whole(path, lambda part: np.savez_compressed(part, **arrays), check)
    return [path]


EXPORTS: dict[str, Callable[[Path, LabelledStudy, SegmentationOptions], list[Path]]] = {
    "nifti": export_nifti,
    "dicom-seg": export_segmentation,
    "rtstruct": export_structures,
    "npz": export_npz,
}
"""Name of a format to what writes a study in it below a folder, described so if it is DICOM, and gives the files."""
