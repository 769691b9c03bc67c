"""Decisions beside masks, and labels that leave by them."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset

from runtime import Volume, read_volume, write_mask
from runtime.cohort.export import LabelledStudy, export_segmentation, export_structures
from runtime.cohort.ledger import FILE_NAME, Ledger
from runtime.cohort.outcome import StudyOutcome
from runtime.cohort.review import Decision, Review, summary
from runtime.commands import cohort_export
from runtime.commands.cohort import main
from runtime.errors import InputError, MissingInput, NoObject, Sam2Error
from runtime.io.dicom import read_segmentation
from runtime.io.dicom.codes import Code
from runtime.io.dicom.seg import SegmentationOptions
from runtime.io.volumes.npz import read_npz, read_npz_labels
from tests.dicoms import save_series
from tests.runtime.cohort.cohorts import CORRECTION, DRAWN, SHAPE, make_cohort
from tests.runtime.cohort.fakes import told


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return make_cohort(tmp_path)


@pytest.fixture
def review(cohort: Path) -> Review:
    return Review(cohort)


def decide(review: Review, study: str, object_id: int, verdict: str, corrected: str = "") -> None:
    decision = Decision(study, object_id, verdict, "me", f"key {study}", 4.0, 3, corrected)
    review.record(decision)


def test_the_latest_decision_counts_and_none_is_lost(review: Review) -> None:
    decide(review, "a", 1, "rejected")
    decide(review, "a", 1, "accepted")
    assert {k: d.verdict for k, d in review.latest().items()} == {("a", 1): "accepted"}
    assert review.next_correction("a", 1) == "corrections/a.1.3.nii.gz"


def test_decisions_from_before_dice_was_kept_are_read(review: Review) -> None:
    decide(review, "a", 1, "accepted")
    with closing(sqlite3.connect(review.folder / FILE_NAME)) as db, db:
        db.execute("ALTER TABLE decisions DROP COLUMN dice")
    assert Review(review.folder).latest()["a", 1].dice is None


def test_a_mask_that_was_made_anew_is_undecided(review: Review) -> None:
    decide(review, "a", 1, "accepted")
    ledger = Ledger(review.folder)
    (number,) = (row["number"] for row in ledger.rows() if row["name"] == "a")
    ledger.settle(StudyOutcome(number, key="another", told=told()), "masks/a.nii.gz")
    ledger.close()
    assert review.latest() == {}


def test_the_queue_begins_with_the_most_doubtful(review: Review) -> None:
    decide(review, "a", 1, "accepted")
    told = review.queue(0, 10)
    assert [(o["study"], o["object"], o["verdict"]) for o in told["objects"]] == [
        ("b", 1, None),
        ("b", 2, None),
        ("a", 1, "accepted"),
        ("a", 2, None),
    ]
    assert (told["studies"], told["decided"]) == (2, 1)
    assert {o["study"] for o in review.queue(1, 1)["objects"]} == {"a"}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_cohort_that_may_not_be_written_to_is_read(
    review: Review, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an archive's disk, also while whoever may write has it open; root may write everywhere."""
    ledger = Ledger(review.folder) if is_open else None
    decide(review, "a", 1, "accepted")
    before = {path: path.read_bytes() for path in review.folder.glob("cohort*")}
    assert (len(before) > 1) == is_open
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    archived = Review(review.folder)
    assert archived.latest().keys() == {("a", 1)}
    assert [study["name"] for study in archived.studies()] == ["b", "a"]
    with pytest.raises(Sam2Error, match="readonly"):
        decide(archived, "a", 1, "rejected")
    if ledger:
        ledger.close()
    else:
        assert {path: path.read_bytes() for path in review.folder.glob("cohort*")} == before


def test_what_is_not_there_cannot_be_decided(review: Review, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted accepted"):
        decide(review, "a", 1, "perhaps")
    for study, object_id in (("nowhere", 1), ("a", 9)):
        with pytest.raises(NoObject):
            decide(review, study, object_id, "accepted")
    with pytest.raises(MissingInput, match="no cohort"):
        Review(tmp_path)


def test_what_reviewing_costs(review: Review) -> None:
    decide(review, "a", 1, "accepted")
    decide(review, "a", 2, "rejected")
    decide(review, "b", 1, "accepted")
    assert summary(review.latest()) == [("accepted", 2, 4.0, 3.0), ("rejected", 1, 4.0, 3.0)]


def decided(review: Review) -> None:
    """a: 1 accepted, 2 rejected; b: 1 corrected, 2 undecided."""
    decide(review, "a", 1, "accepted")
    decide(review, "a", 2, "rejected")
    path = review.folder / review.next_correction("b", 1)
    path.parent.mkdir()
    write_mask(path, CORRECTION, read_volume(review.folder.parent / "studies" / "b.nrrd"))
    decide(review, "b", 1, "corrected", path.relative_to(review.folder).as_posix())


A = np.where(DRAWN == 1, 1, 0)
B = CORRECTION
B_ALL = np.where(DRAWN == 2, 2, CORRECTION)


@pytest.mark.parametrize(("words", "b"), [([], B), (["--all"], B_ALL)])
def test_nifti_pairs(
    words: list[str],
    b: np.ndarray,
    review: Review,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decided(review)
    main(["export", str(review.folder), "-o", str(tmp_path / "new"), *words])
    told = capsys.readouterr()
    said = json.loads(told.out)
    assert " 2/2 [" in told.err
    assert (said["studies"], said["objects"], said["files"]) == (2, 2 + bool(words), 4)
    for name, suffix, wanted in (("a", ".nii.gz", A), ("b", ".nrrd", b)):
        image = read_volume(tmp_path / "new" / "images" / f"{name}.nii.gz")
        source = read_volume(tmp_path / "studies" / f"{name}{suffix}")
        labels = read_volume(tmp_path / "new" / "labels" / f"{name}.nii.gz")
        np.testing.assert_array_equal(image.array, source.array)
        np.testing.assert_array_equal(labels.array, wanted)
        np.testing.assert_allclose(labels.affine, source.affine, atol=1e-5)
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    mask = read_volume(review.folder / "masks" / "b.nii.gz").array
    np.testing.assert_array_equal(mask, DRAWN)  # a correction changes no mask


def test_what_medsam2_trains_on(review: Review, tmp_path: Path) -> None:
    decided(review)
    main(["export", str(review.folder), "-o", str(tmp_path / "new"), "--format", "npz"])
    path = tmp_path / "new" / "b.npz"
    volume = read_npz(path)
    assert volume.array.dtype == np.uint8
    assert volume.spacing_mm == (2.0, 0.5, 0.75)
    np.testing.assert_array_equal(read_npz_labels(path), CORRECTION)


def test_nothing_is_exported_before_somebody_decides(
    review: Review,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    main(["export", str(review.folder), "-o", str(tmp_path / "new")])
    said = json.loads(capsys.readouterr().out)
    assert (said["studies"], said["left_out"]) == (0, 2)
    assert not any((tmp_path / "new").iterdir())
    assert "nobody has accepted anything" in caplog.text and "--all" in caplog.text


def test_an_export_that_ends_early_says_that_studies_are_missing(
    review: Review,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = cohort_export.EXPORTS["nifti"], []

    def interrupted(*what: Any) -> Any:
        if written:
            raise KeyboardInterrupt
        written.append(write(*what))
        return written[0]

    monkeypatch.setitem(cohort_export.EXPORTS, "nifti", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["export", str(review.folder), "-o", str(tmp_path / "new"), "--all"])
    assert "ended early: 1 study is in" in caplog.messages[-1]


def test_what_cannot_be_exported_is_named_and_the_others_are(
    review: Review, tmp_path: Path
) -> None:
    decided(review)
    (tmp_path / "studies" / "b.nrrd").write_bytes(b"gone")
    with pytest.raises(Sam2Error, match="1 study could not"):
        main(["export", str(review.folder), "-o", str(tmp_path / "new")])
    assert (tmp_path / "new" / "labels" / "a.nii.gz").is_file()
    for format_ in ("nifti", "npz"):
        with pytest.raises(InputError, match="not empty"):
            main(["export", str(review.folder), "-o", str(tmp_path / "new"), "--format", format_])
    with pytest.raises(InputError, match="lies within"):
        main(["export", str(review.folder), "-o", str(review.folder / "new")])


def test_what_is_told_of_a_study_is_a_line_beside_the_progress(
    review: Review, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decided(review)
    (tmp_path / "studies" / "b.nrrd").write_bytes(b"gone")
    console = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(console)
    try:
        with pytest.raises(Sam2Error, match="1 study could not"):
            main(["export", str(review.folder), "-o", str(tmp_path / "new")])
    finally:
        logging.getLogger().removeHandler(console)
    assert re.search(r"^b: ", capsys.readouterr().err.replace("\r", "\n"), re.MULTILINE)


@pytest.mark.parametrize(("shape", "origin_mm"), [((4, 6, 5), (1, 2, 3)), (SHAPE, (9, 2, 3))])
def test_a_study_that_was_changed_since_does_not_get_its_old_labels(
    shape: tuple[int, int, int],
    origin_mm: tuple[float, float, float],
    review: Review,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    decided(review)
    changed = Volume(np.zeros(shape, np.int16), (2.0, 0.5, 0.75), origin_mm)
    sitk.WriteImage(changed.to_image(), str(tmp_path / "studies" / "b.nrrd"))
    with pytest.raises(Sam2Error, match="1 study could not"):
        main(["export", str(review.folder), "-o", str(tmp_path / "new")])
    assert "was changed since" in caplog.text
    assert [path.name for path in (tmp_path / "new" / "labels").iterdir()] == ["a.nii.gz"]


def test_overlaps_that_a_label_map_cannot_hold_are_told_of(
    review: Review, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decided(review)
    path = review.folder / review.next_correction("b", 1)
    write_mask(path, (DRAWN == 2).astype(np.uint8), read_volume(tmp_path / "studies" / "b.nrrd"))
    decide(review, "b", 1, "corrected", path.relative_to(review.folder).as_posix())
    main(["export", str(review.folder), "-o", str(tmp_path / "new"), "--all"])
    assert "b: objects overlap in 4 voxels" in caplog.text
    labels = read_volume(tmp_path / "new" / "labels" / "b.nii.gz")
    np.testing.assert_array_equal(labels.array, np.where(DRAWN == 2, 2, 0))


def test_dicom_keeps_overlaps_and_objects_of_which_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    save_series(tmp_path / "series", with_uids)
    volume = read_volume(tmp_path / "series")
    masks = {number: np.zeros(volume.shape, bool) for number in (2, 5, 7)}
    masks[2][1, 1:4, 1:4] = masks[5][1, 2:5, 2:5] = True
    study = LabelledStudy("s", tmp_path / "series", volume, masks)
    (path,) = export_segmentation(tmp_path, study)
    segments = read_segmentation(path, like=volume)
    for number, mask in enumerate(masks.values(), 1):
        np.testing.assert_array_equal(segments.mask(number), mask)
    (path,) = export_structures(tmp_path, study)
    contours = [item.get("ContourSequence", []) for item in dcmread(path).ROIContourSequence]
    assert [*map(len, contours)] == [1, 1, 0]

    nothing = LabelledStudy("n", tmp_path / "series", volume, {7: masks[7]})
    (path,) = export_segmentation(tmp_path, nothing)
    assert not read_segmentation(path, like=volume).mask(1).any()


def test_dicom_leaves_as_segmentations_of_dicom_alone(review: Review, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    decided(review)
    with pytest.raises(Sam2Error, match="2 studies could not"):
        main(["export", str(review.folder), "-o", str(tmp_path / "new"), "--format", "dicom-seg"])


@pytest.mark.parametrize(
    ("format_", "words", "why"),
    [
        ("nifti", ["--code", "SCT:10200004:Liver"], "are for DICOM"),
        ("npz", ["--keep-empty-frames"], "are for DICOM"),
        ("rtstruct", ["--seg-type", "labelmap"], "not structures"),
    ],
)
def test_how_dicom_is_written_is_not_for_other_formats(
    format_: str, words: list[str], why: str, review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    target = review.folder.parent / "new"
    with pytest.raises(SystemExit):
        main(["export", str(review.folder), "-o", str(target), "--format", format_, *words])
    assert why in capsys.readouterr().err
    assert not target.exists()


def with_uids(dataset: Dataset, index: int) -> None:
    dataset.FrameOfReferenceUID, dataset.PatientID = "1.2.826.0.1.9", "P7"
    dataset.StudyInstanceUID = "1.2.826.0.1.3"


def test_dicom_studies_leave_as_segmentations(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    save_series(tmp_path / "series", with_uids)
    volume = read_volume(tmp_path / "series")
    labels = np.zeros(volume.shape, np.uint8)
    labels[1, :2, :2] = 3
    study = LabelledStudy(
        *("p/series", tmp_path / "series", volume, {3: labels == 3}),
        codes={3: Code("SCT", "10200004", "Liver")},
    )
    (path,) = export_segmentation(tmp_path / "new", study)
    assert path == tmp_path / "new" / "p" / "series.dcm"
    np.testing.assert_array_equal(read_segmentation(path, like=volume).mask(1), labels == 3)
    assert read_segmentation(path, like=volume).names == {1: "Liver 3"}

    of_all = Code("SCT", "64033007", "Kidney")
    for options, name in (
        (SegmentationOptions(codes={2: of_all}), "Liver 3"),
        (SegmentationOptions(codes={3: of_all}), "Kidney 3"),
        (SegmentationOptions(of_all), "Kidney 3"),
    ):
        (path,) = export_segmentation(tmp_path / name, study, options)
        assert read_segmentation(path, like=volume).names == {1: name}
