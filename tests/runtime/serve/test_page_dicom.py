"""The page in a real browser, with DICOM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset

from runtime.model import load
from tests.dicoms import OTHER_SERIES, SHAPE, save_frames, save_series
from tests.runtime.serve.browser import Served, Viewer

if TYPE_CHECKING:
    pass


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with closing(load(threads=1)) as model:
        served = Served(model)
        yield served
        served.stop()


def referable(dataset: Dataset, index: int) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.PatientID = "P7"


def opened(viewer: Viewer, *paths: Path) -> None:
    viewer.page.set_input_files("#files", [str(path) for path in paths])
    viewer.until("document.documentElement.dataset.screen === 'viewer'")
    viewer.until_ready()


def test_a_segmentation_of_dropped_slices(viewer: Viewer, tmp_path: Path) -> None:
    save_series(tmp_path / "in", referable)
    opened(viewer, *sorted((tmp_path / "in").iterdir()))
    viewer.click((2, 3, 4))
    voxels = viewer.state["maskedVoxels"]
    assert voxels > 0
    with viewer.page.expect_download() as download:
        viewer.page.click("#export-dicom")
    assert download.value.suggested_filename == "thin-masks.dcm"
    download.value.save_as(tmp_path / "out.dcm")
    there = highdicom.seg.segread(tmp_path / "out.dcm")
    assert there.PatientID == "P7"
    assert np.count_nonzero(there.pixel_array) == voxels
    assert there.pixel_array.shape[-2:] == SHAPE[1:]


def test_what_is_no_dicom_says_why(viewer: Viewer, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", imgs=np.zeros((3, 20, 20), np.uint8))
    opened(viewer, tmp_path / "in.npz")
    assert viewer.page.is_disabled("#export-dicom") and viewer.page.is_enabled("#export-nrrd")
    assert "this file is none" in viewer.words("#export-hint")


def a_bag(folder: Path) -> list[Path]:
    """Two series, an enhanced object, and what lies beside them."""

    def head(dataset: Dataset, index: int) -> None:
        dataset.SeriesDescription = "Head, soft"
        dataset.PatientID = "P7"

    save_series(folder / "a", referable)
    save_series(folder / "b", head, names=["x0", "x1", "x2"], depth=3, series=OTHER_SERIES)

    def enhanced(dataset: Dataset) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.826.0.1.3", "T1 enhanced"

    save_frames(folder / "enhanced.dcm", enhanced)
    (folder / "notes.txt").write_text("none")
    (folder / "Report.pdf").write_bytes(b"%PDF-1.7")
    return [*sorted((folder / "a").iterdir()), *sorted((folder / "b").iterdir())] + [
        folder / name for name in ("enhanced.dcm", "notes.txt", "Report.pdf")
    ]


def test_one_of_several_series_is_chosen_with_the_keyboard(viewer: Viewer, tmp_path: Path) -> None:
    files = [str(path) for path in a_bag(tmp_path)]
    viewer.page.set_input_files("#files", files)
    viewer.until("document.getElementById('choose').open")
    listed = viewer.page.locator("#choices label").all_inner_texts()
    assert [text.split("\n") for text in listed] == [
        ["thin", "CT, 5 slices, 8 \u00d7 6"],
        ["T1 enhanced", "MR, 4 slices, 8 \u00d7 6"],
        ["Head, soft", "CT, 3 slices, 8 \u00d7 6"],
    ]
    viewer.page.keyboard.press("Escape")
    viewer.until_ready()
    assert viewer.state["shape"] is None
    viewer.until("document.getElementById('status').textContent === 'No file open'")

    viewer.page.set_input_files("#files", files)
    viewer.until("document.getElementById('choose').open")
    viewer.page.keyboard.press("ArrowDown")
    viewer.page.keyboard.press("ArrowDown")
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().shape?.[0] === 3")
    viewer.until_ready()
    assert viewer.words("#file-name") == "Head, soft"

    viewer.page.set_input_files("#files", files)
    viewer.until("document.getElementById('choose').open")
    viewer.page.click("#choices label:nth-child(2)")
    viewer.page.click("#choose-open")
    viewer.until("window.viewerState().shape?.[0] === 4")
    viewer.until_ready()
    assert viewer.words("#file-name") == "enhanced.dcm"
