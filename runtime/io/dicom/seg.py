"""Masks as a DICOM Segmentation (PS3.3 A.51 and, of label maps, A.91) that refers to the images they were made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, Sam2Error, SeriesError
from runtime.files.atomic import check_destination, write_whole
from runtime.io.dicom.codes import ABNORMAL, LESION, Code
from runtime.io.dicom.segments import HasMasks, Segments, as_segments, check_frames
from runtime.io.dicom.sources import Sources, check_spares_images, read_sources
from runtime.io.dicom.uids import Uids
from runtime.io.dicom.written import difference
from runtime.io.volumes.volume import Volume
from runtime.process.packages import DISTRIBUTION, imported
from runtime.version import __version__

SegmentationType = Literal["binary", "labelmap"]
SEGMENTATION_TYPES: tuple[SegmentationType, ...] = get_args(SegmentationType)
# PS3.16 CID 7162, Surface Processing Algorithm Families; highdicom takes it from pydicom.
_FAMILY = Code("DCM", "123110", "Artificial Intelligence")
_CHARACTERS = (
    "ISO_IR 192"  # UTF-8, which holds whatever names the source has, and any meaning of a code
)
_LONG_STRING, _NAME = 64, 56  # the second with a number of an object behind it
_PARTED = str.maketrans(
    ",=", ";:"
)  # highdicom parts parameters by commas, and names from values by =
_NO_PARTS = str.maketrans("\\", "/")  # a backslash parts values (PS3.5 section 6.2, LO)
# Added to the number of the source's series, so that the two do not have one number.
SERIES_NUMBERS = 1000
# Of segments, in turn, as red, green and blue.
COLOURS = (
    *((242, 85, 90), (61, 169, 252), (244, 185, 66), (95, 211, 141)),
    *((185, 140, 245), (255, 143, 92), (66, 211, 200), (242, 138, 192)),
)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What made a segmentation.

    Attributes:
        name, version: of the software.
        model: the network's name.
        serial: what tells this network from others, as a bundle's fingerprint does.
        parameters: with which it ran, by name.
    """

    name: str = DISTRIBUTION
    version: str = __version__
    model: str = DISTRIBUTION
    serial: str = __version__
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentationOptions:
    """How masks are written.

    Attributes:
        code: what segments are (Segmented Property Type).
        category: which kind of thing that is (Segmented Property Category).
        codes, categories: the same of single objects, by id, where it is something else.
        type: "binary": a frame for each segment and slice, in which segments may overlap, and which most viewers read;
            "labelmap": one frame a slice.
        keeps_empty_frames: whether slices without a segment have frames too.
        algorithm: what made them.
        names: of objects by id; without one an object is called by its code and its id.

    Raises InputError for another type.
    """

    code: Code = LESION
    category: Code = ABNORMAL
    type: SegmentationType = "binary"
    keeps_empty_frames: bool = False
    algorithm: Algorithm = field(default_factory=Algorithm)
    codes: Mapping[int, Code] = field(default_factory=dict)
    categories: Mapping[int, Code] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type not in SEGMENTATION_TYPES:
            raise InputError(
                f"found the segmentation type {self.type!r}; wanted {', '.join(SEGMENTATION_TYPES)}"
            )

    def code_of(self, object_id: int) -> Code:
        """What an object is."""
        return self.codes.get(object_id, self.code)

    def category_of(self, object_id: int) -> Code:
        """Which kind of thing it is."""
        return self.categories.get(object_id, self.category)

    def name_of(self, object_id: int) -> str:
        """What it is called, as a Long String (PS3.5 section 6.2)."""
        usual = f"{self.code_of(object_id).meaning[:_NAME]} {object_id}"
        return self.names.get(object_id, usual).translate(_NO_PARTS)[:_LONG_STRING]

    def naming(
        self, codes: Mapping[int, Code], categories: Mapping[int, Code]
    ) -> SegmentationOptions:
        """The same, with codes and categories of objects that have none of their own yet."""
        return replace(
            self, codes={**codes, **self.codes}, categories={**categories, **self.categories}
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A segmentation that was written.

    Attributes:
        sop_instance, series: its UIDs.
        object_ids: of segments 1, 2, 3...
        num_frames: how many frames it has.
    """

    sop_instance: str
    series: str
    object_ids: tuple[int, ...]
    num_frames: int


def check_segmentation(volume: Volume, options: SegmentationOptions | None = None) -> None:
    """See that a segmentation of `volume` can be written, before work goes into it. Raises as the writing does."""
    first = np.zeros(volume.shape, np.uint8)
    first.flat[0] = 1
    dataset = _make(
        Segments((1,), first),
        read_sources(volume),
        volume,
        options or SegmentationOptions(),
        Uids(),
    )
    _save(dataset, BytesIO(), volume)


def write_segmentation(
    path: str | PathLike[str],
    masks: HasMasks | NDArray[Any],
    like: Volume,
    options: SegmentationOptions | None = None,
    identity: str | None = None,
    sources: Sources | None = None,
) -> Written:
    """Write masks as a DICOM Segmentation of the images that `like` was read from.

    It has the patient and the study of these images and a series of its own. Segments are numbered from 1 by
    increasing object id, as DICOM demands, and labelled with what they are and their ids. The
    file appears whole or not at all, and only after its frames were read back and found to be the masks on the right
    images.

    Args:
        path: destination.
        masks: a result, whose objects may overlap in "binary", or labels (z, y, x), uint8 or uint16, 0 outside.
        like: a volume that was read from DICOM.
        options: codes, type and so on.
        identity: what tells this work from any other, such as a hash over all that the masks depend on: done again by
            the same version, it is the same object with the same UIDs. None draws new ones.
        sources: of `read_sources`, for files that are not there any more; None reads them now.

    Raises InputError for a volume that is not from DICOM and for labels that do not fit or hold no object, SeriesError
    for images that cannot be referred to, MissingPackage without highdicom, and Sam2Error where the writing fails.
    """
    path, options = Path(path), options or SegmentationOptions()
    check_destination(path)
    check_spares_images(path, like)
    sources = read_sources(like) if sources is None else sources
    segments = as_segments(masks, options.type == "binary", like.shape, like.source)
    uids = Uids(identity and f"{identity} {options.algorithm.version}")
    dataset = _make(segments, sources, like, options, uids)

    def check(part: Path) -> None:
        wrong = difference(part, segments, sources, options.keeps_empty_frames)
        if wrong:
            raise Sam2Error(f"{path} could not be written: read back, {wrong}; is the disk full?")

    write_whole(path, lambda part: _save(dataset, part, like), check)
    return Written(
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        segments.object_ids,
        int(dataset.NumberOfFrames),
    )


def _make(
    segments: Segments,
    sources: Sources,
    like: Volume,
    options: SegmentationOptions,
    uids: Uids,
) -> Any:
    """The data set. Raises SeriesError for what highdicom refuses, and for frames of bits that it would lose."""
    seg = imported("highdicom.seg")
    check_frames(like, options.type == "binary")
    first, algorithm = sources.datasets[0], options.algorithm
    array = segments.array
    if sources.stored != tuple(range(len(array))):
        array = array[list(sources.stored)]
    with refusals(like):
        dataset = seg.Segmentation(
            source_images=sources.datasets,
            pixel_array=array,
            segmentation_type=options.type.upper(),
            segment_descriptions=_descriptions(segments, options, uids),
            series_instance_uid=uids.of("series"),
            series_number=SERIES_NUMBERS + max(0, int(first.get("SeriesNumber") or 0)),
            sop_instance_uid=uids.of("instance"),
            instance_number=1,
            manufacturer=algorithm.name[:_LONG_STRING],
            manufacturer_model_name=algorithm.model[:_LONG_STRING],
            software_versions=f"{algorithm.name} {algorithm.version}"[:_LONG_STRING],
            device_serial_number=algorithm.serial[:_LONG_STRING],
            omit_empty_frames=not options.keeps_empty_frames,
            content_label="SEGMENTATION",
            content_description=f"{_meanings(segments, options)} by {algorithm.model}"[
                :_LONG_STRING
            ],
            series_description=f"Segmentation by {algorithm.model}"[:_LONG_STRING],
            specific_character_set=_CHARACTERS,
        )
        dataset.update(sources.dates)
        dataset.ContentCreatorName = ""  # nobody is known; it must be there (type 2)
        for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
            item.DimensionOrganizationUID = uids.of("dimensions")
        return dataset


def _save(dataset: Any, part: Path | BytesIO, like: Volume) -> None:
    with refusals(like):
        dataset.save_as(part)


@contextmanager
def refusals(like: Volume) -> Iterator[None]:
    """What highdicom and pydicom find wrong with values of the sources, as a SeriesError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (Sam2Error, OSError, MemoryError):
        raise
    except Exception as error:
        raise SeriesError(
            f"{like.source}: its images cannot be referred to ({type(error).__name__}: {error}); export the series "
            "again, or write the mask as .nii.gz, .nrrd or .mha"
        ) from error


def _meanings(segments: Segments, options: SegmentationOptions) -> str:
    """What the objects are, each meaning once."""
    meanings = [options.code_of(object_id).meaning for object_id in segments.object_ids]
    return ", ".join(dict.fromkeys(meanings))


def _descriptions(segments: Segments, options: SegmentationOptions, uids: Uids) -> list[Any]:
    highdicom, seg, sr = map(imported, ("highdicom", "highdicom.seg", "highdicom.sr"))
    colour = imported("highdicom.color").CIELabColor
    algorithm = options.algorithm

    def coded(concept: Code) -> Any:
        return sr.CodedConcept(concept.value, concept.scheme, concept.meaning)

    identification = highdicom.AlgorithmIdentificationSequence(
        algorithm.name[:_LONG_STRING],
        coded(_FAMILY),
        algorithm.version[:_LONG_STRING],
        parameters={k: v.translate(_PARTED) for k, v in algorithm.parameters.items()} or None,
    )
    return [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=options.name_of(object_id),
            segmented_property_category=coded(options.category_of(object_id)),
            segmented_property_type=coded(options.code_of(object_id)),
            algorithm_type="SEMIAUTOMATIC",
            algorithm_identification=identification,
            tracking_uid=uids.of(f"segment {number}"),
            tracking_id=options.name_of(object_id),
            display_color=colour.from_rgb(*COLOURS[(number - 1) % len(COLOURS)]),
        )
        for number, object_id in enumerate(segments.object_ids, 1)
    ]
