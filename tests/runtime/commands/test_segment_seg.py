"""The command, from a DICOM series to a DICOM Segmentation of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

import runtime.jobs.volume
from runtime.bundle.bundle import open_bundle
from runtime.commands.segment import main
from runtime.errors import InputError, SeriesError
from runtime.io import Volume, read_volume, write_mask
from runtime.io.dicom.codes import ABNORMAL, LESION
from runtime.measure.phantom import Phantom, make_phantom
from runtime.version import __version__
from tests.dicoms import SAGITTAL, SERIES, an_image, decimals, normal
from tests.reports import read_report

PHANTOM: Phantom = make_phantom((5, 64, 64), seed=3)
MIDDLE = 2
Run = Callable[..., dict[str, Any]]


def as_box(object_id: int) -> str:
    box = PHANTOM.box(MIDDLE, object_id)
    return ",".join(str(v) for v in (MIDDLE, *box.y, *box.x))


def save_phantom(folder: Path, edit: Callable[[Dataset], None] | None = None) -> None:
    """Sagittal slices whose names are in the reverse of their places."""
    folder.mkdir()
    for index, plane in enumerate(PHANTOM.pixels):
        dataset = an_image(
            plane, "1.2.840.10008.5.1.4.1.1.2", SERIES, "1.2.840.10008.1.2.1", index + 1
        )
        dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
        dataset.PatientID = "P7"
        dataset.ImagePositionPatient = decimals(10 + 2.5 * index * normal(SAGITTAL))
        dataset.ImageOrientationPatient = decimals(SAGITTAL)
        dataset.PixelSpacing, dataset.SliceThickness = decimals((0.75, 0.8)), "2.5"
        if edit:
            edit(dataset)
        dataset.save_as(folder / f"{9 - index}.dcm", enforce_file_format=True)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str, mask: str = "mask.dcm") -> dict[str, Any]:
        series = str(tmp_path / "series")
        main(["-i", series, "-o", str(tmp_path / mask), "--window", "128/256", *words])
        (line,) = capsys.readouterr().out.splitlines()
        return read_report(line)

    return call


BOXES = ("--box", as_box(1), "--box", as_box(2))


@pytest.mark.parametrize(
    ("kind", "keeps"), [(None, False), ("binary", True), ("labelmap", False), ("labelmap", True)]
)
def test_the_segmentation_holds_the_same_masks_as_nifti_does(
    kind: str | None, keeps: bool, run: Run, tmp_path: Path
) -> None:
    save_phantom(tmp_path / "series")
    words = [*(("--seg-type", kind) if kind else ()), *(("--keep-empty-frames",) if keeps else ())]
    report = run(*BOXES, *words)
    assert run(*BOXES, mask="mask.nrrd")["outputs"]["segmentation"] is None
    labels = read_volume(tmp_path / "mask.nrrd").array
    assert set(np.unique(labels)) == {0, 1, 2}
    volume = read_volume(tmp_path / "series")
    there = highdicom.seg.segread(tmp_path / "mask.dcm")
    uids = [str(dcmread(frame.path).SOPInstanceUID) for frame in volume.frames]
    found = there.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(found, labels[..., None] == [1, 2])
    written = report["outputs"]["segmentation"]
    assert written == {
        "sop_instance_uid": there.SOPInstanceUID,
        "series_instance_uid": there.SeriesInstanceUID,
        "type": kind or "binary",
        "frames": there.NumberOfFrames,
        "code": "SCT:52988006:Lesion",
        "category": "SCT:49755003:Morphologically Abnormal Structure",
        "segments": [
            {"number": number, "object": number, "code": str(LESION), "category": str(ABNORMAL)}
            for number in (1, 2)
        ],
    }
    if keeps:
        assert there.NumberOfFrames == 5 * (1 if kind == "labelmap" else 2)
    assert {path.name for path in tmp_path.iterdir()} == {"series", "mask.dcm", "mask.nrrd"}


def test_codes_and_what_made_it(run: Run, tmp_path: Path) -> None:
    save_phantom(tmp_path / "series")
    report = run(
        *BOXES[:2],
        *("--code", "SCT:10200004:Liver", "--category", "SCT:91723000:Anatomical Structure"),
    )
    assert report["outputs"]["segmentation"]["code"] == "SCT:10200004:Liver"
    there = highdicom.seg.segread(tmp_path / "mask.dcm")
    (segment,) = there.SegmentSequence
    assert segment.segmented_property_type.value == "10200004"
    assert segment.segmented_property_category.value == "91723000"
    assert segment.segment_label == "Liver 1"
    algorithm = segment.algorithm_identification
    assert (algorithm.name, algorithm.version) == ("medsam2-runtime", __version__)
    assert set(algorithm.parameters) == {"backend", "memory", "zoom", "smooth"}
    assert there.DeviceSerialNumber == open_bundle().fingerprint
    assert there.ManufacturerModelName == report["model"]["name"]
    assert there.PatientID == "P7"


LIVER, ORGAN = "SCT:10200004:Liver", "SCT:91723000:Anatomical Structure"


def test_each_object_may_be_something_else(run: Run, tmp_path: Path) -> None:
    save_phantom(tmp_path / "series")
    box = PHANTOM.box(MIDDLE, 2)
    asked = {"slice": MIDDLE, "box": {"y": [*box.y], "x": [*box.x]}}
    content = {
        "objects": [
            {"id": 4, "prompts": [asked], "code": LIVER, "category": ORGAN},
            {"id": 6, "prompts": [asked], "code": LIVER},
            {"id": 9, "prompts": [asked]},
        ]
    }
    (tmp_path / "p.json").write_text(json.dumps(content))
    report = run(
        *("--prompts", str(tmp_path / "p.json"), "--code", "SCT:108369006:Neoplasm"),
        *("--code", "6=SCT:39607008:Lung: left"),
    )
    there = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert [
        (s.segment_label, s.segmented_property_type.value, s.segmented_property_category.value)
        for s in there.SegmentSequence
    ] == [
        ("Liver 4", "10200004", "91723000"),
        ("Lung: left 6", "39607008", "49755003"),  # the command line knows better than the file
        ("Neoplasm 9", "108369006", "49755003"),
    ]
    assert there.ContentDescription.startswith("Liver, Lung: left, Neoplasm by ")
    told = report["outputs"]["segmentation"]
    assert told["code"] == "SCT:108369006:Neoplasm"
    assert told["segments"][0] == {"number": 1, "object": 4, "code": LIVER, "category": ORGAN}
    run("--prompts", str(tmp_path / "p.json"), mask="mask.rtstruct.dcm")
    names = [r.ROIName for r in dcmread(tmp_path / "mask.rtstruct.dcm").StructureSetROISequence]
    assert names == ["Liver 4", "Liver 6", "Lesion 9"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--code", f"3={LIVER}"), "a code of object 3; there are 1, 2"),
        (("--category", f"3={ORGAN}"), "a code of object 3; there are 1, 2"),
        (("--code", f"1={LIVER}", "--code", f"1={LIVER}"), "two codes of object 1"),
        (("--code", LIVER, "--code", LIVER), "of all objects; wanted one, or OBJECT="),
        (("--code", "1=liver"), "wanted SCHEME:VALUE:MEANING"),
    ],
)
def test_codes_that_make_no_sense_are_refused_before_anything_is_read(
    words: tuple[str, ...], why: str, run: Run
) -> None:
    with pytest.raises(InputError, match=why):
        run(*BOXES, *words)


def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("computed before all was checked")


def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.jobs.volume, "VolumePredictor", never)

    def forget(dataset: Dataset) -> None:
        del dataset.FrameOfReferenceUID

    save_phantom(tmp_path / "series", forget)
    with pytest.raises(SeriesError, match="no Frame of Reference UID"):
        run(*BOXES)
    with pytest.raises(InputError, match="would lie among the slices"):
        run(*BOXES, mask="series/mask.dcm")
    with pytest.raises(InputError, match="wanted SCHEME:VALUE:MEANING"):
        run(*BOXES, "--code", "liver")
    write_mask(tmp_path / "ct.nrrd", PHANTOM.pixels, Volume.from_array(PHANTOM.pixels))
    with pytest.raises(InputError, match="is not DICOM"):
        main(["-i", str(tmp_path / "ct.nrrd"), "-o", str(tmp_path / "mask.dcm"), *BOXES])
    assert not (tmp_path / "mask.dcm").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--code", "SCT:1:x"),
        ("--category", "SCT:1:x"),
        ("--seg-type", "labelmap"),
        ("--keep-empty-frames",),
    ],
)
def test_options_of_dicom_are_for_dicom(
    words: tuple[str, ...], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_phantom(tmp_path / "series")
    with pytest.raises(SystemExit) as left:
        run(*BOXES, *words, mask="mask.nrrd")
    assert left.value.code == 2
    assert "are for a mask named .dcm" in capsys.readouterr().err


def test_libraries_do_not_talk_on_stderr(tmp_path: Path) -> None:
    save_phantom(tmp_path / "series")
    command = [sys.executable, "-m", "runtime", "segment", "-i", str(tmp_path / "series")]
    words = ["-o", str(tmp_path / "mask.dcm"), "--window", "128/256", "--threads", "1", *BOXES[:2]]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "copy" not in done.stderr
    assert read_report(done.stdout.strip())["outputs"]["segmentation"]["frames"] > 0


def test_a_structure_set_holds_the_same_masks(run: Run, tmp_path: Path) -> None:
    save_phantom(tmp_path / "series")
    report = run(*BOXES, "--code", "SCT:10200004:Liver", mask="mask.rtstruct.dcm")
    assert report["outputs"]["segmentation"] is None
    run(*BOXES, mask="mask.nrrd")
    labels, volume = read_volume(tmp_path / "mask.nrrd").array, read_volume(tmp_path / "series")
    there = dcmread(tmp_path / "mask.rtstruct.dcm")
    assert [roi.ROIName for roi in there.StructureSetROISequence] == ["Liver 1", "Liver 2"]
    assert there.ManufacturerModelName == report["model"]["name"]
    area_mm2 = volume.spacing_mm[1] * volume.spacing_mm[2]
    for number, roi in enumerate(there.ROIContourSequence, 1):
        enclosed_mm2 = 0.0
        for contour in roi.ContourSequence:
            points_mm = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            around = np.cross(points_mm, np.roll(points_mm, -1, axis=0)).sum(0)
            enclosed_mm2 += abs(around @ normal(SAGITTAL)) / 2
        assert enclosed_mm2 == pytest.approx((labels == number).sum() * area_mm2, rel=1e-3)


@pytest.mark.parametrize(
    "words",
    [("--category", "SCT:1:x"), ("--seg-type", "labelmap"), ("--keep-empty-frames",)],
)
def test_options_of_segmentations_are_not_for_structure_sets(
    words: tuple[str, ...], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_phantom(tmp_path / "series")
    with pytest.raises(SystemExit) as left:
        run(*BOXES, *words, mask="mask.rtstruct.dcm")
    assert left.value.code == 2
    assert "are for segmentations, not structures" in capsys.readouterr().err


def test_a_structure_set_is_refused_before_anything_is_computed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.jobs.volume, "VolumePredictor", never)
    save_phantom(tmp_path / "series", lambda dataset: delattr(dataset, "FrameOfReferenceUID"))
    with pytest.raises(SeriesError, match="no Frame of Reference UID"):
        run(*BOXES, mask="mask.rtstruct.dcm")
    with pytest.raises(InputError, match="would lie among the slices"):
        run(*BOXES, mask="series/mask.rtstruct.dcm")
