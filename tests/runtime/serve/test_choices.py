"""What can be opened of files that came together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from runtime.serve import received_files
from runtime.serve.choices import NO_SCAN, SeveralVolumes, choices_of
from runtime.serve.received_files import _choose
from tests.dicoms import OTHER_SERIES, SERIES, save_frames, save_series


def gathered(folder: Path, *sources: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            shutil.copy(path, folder / f"{source.name}-{path.name}")
    return sorted(folder.iterdir())


def test_series_and_volumes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_series(tmp_path / "a")
    save_series(tmp_path / "b", depth=2, series=OTHER_SERIES)
    (tmp_path / "scan.nii.gz").write_bytes(b"not looked at yet")
    (tmp_path / "scan.nhdr").write_text("nor this")
    (tmp_path / "scan.raw").write_bytes(b"its data")
    named = [tmp_path / name for name in ("a", "b", "scan.nii.gz", "scan.nhdr", "scan.raw")]
    paths = gathered(tmp_path / "all", *named)
    choices = choices_of(tmp_path / "all", paths)
    assert [(c.title, c.slices, c.size, c.series) for c in choices] == [
        ("thin", 5, (6, 8), SERIES),
        ("thin", 2, (6, 8), OTHER_SERIES),
        ("scan.nhdr-scan.nhdr", None, None, None),
        ("scan.nii.gz-scan.nii.gz", None, None, None),
    ]
    assert [len(c.files) for c in choices] == [5, 2, 2, 1]  # a header with its data
    with pytest.raises(SeveralVolumes, match="4 volumes") as told:
        _choose(tmp_path / "all", paths, [path.name for path in paths])
    sent = told.value.choices[1]["files"]
    assert [paths[number].name for number in sent] == ["b-000.dcm", "b-001.dcm"]
    monkeypatch.setattr(received_files, "MOST_CHOICES", 3)
    with pytest.raises(SeveralVolumes, match="4 volumes") as told:
        _choose(tmp_path / "all", paths, [path.name for path in paths])
    assert len(told.value.choices) == 3


def test_what_is_no_scan_is_not_asked_about(tmp_path: Path) -> None:
    save_series(tmp_path / "a")
    save_series(tmp_path / "b", depth=1, series=OTHER_SERIES)
    shot = dcmread(tmp_path / "b" / "000.dcm")
    shot.SamplesPerPixel, shot.PhotometricInterpretation = 3, "RGB"
    shot.BitsAllocated = shot.BitsStored = 8
    shot.HighBit, shot.PlanarConfiguration, shot.PixelRepresentation = 7, 0, 0
    shot.PixelData = np.zeros((6, 8, 3), np.uint8).tobytes()
    shot.save_as(tmp_path / "b" / "000.dcm")
    paths = gathered(tmp_path / "all", tmp_path / "a", tmp_path / "b")
    assert [c.why_not for c in choices_of(tmp_path / "all", paths)] == ["", NO_SCAN]
    chosen = _choose(tmp_path / "all", paths, [path.name for path in paths])
    assert (chosen.path, chosen.series) == (tmp_path / "all", SERIES)


def test_objects_of_many_frames_are_one_each(tmp_path: Path) -> None:
    for name, number in (("one", "7"), ("two", "8")):

        def edit(dataset: Dataset, number: str = number) -> None:
            dataset.SOPInstanceUID = f"1.2.{number}"

        save_frames(tmp_path / f"{name}.dcm", edit)
    paths = gathered(tmp_path / "all", tmp_path / "one.dcm", tmp_path / "two.dcm")
    choices = choices_of(tmp_path / "all", paths)
    assert [(c.path, c.slices, c.series) for c in choices] == [(path, 4, None) for path in paths]


def test_damaged_slices_stay_with_each_series(tmp_path: Path) -> None:
    save_series(tmp_path / "a")
    save_series(tmp_path / "b", depth=3, series=OTHER_SERIES)
    cut = tmp_path / "b" / "002.dcm"
    cut.write_bytes(cut.read_bytes()[:-20])
    paths = gathered(tmp_path / "all", tmp_path / "a", tmp_path / "b")
    (tmp_path / "all" / "a-005.dcm").write_bytes(b"")
    paths = sorted((tmp_path / "all").iterdir())
    one, other = choices_of(tmp_path / "all", paths)
    for choice, own in ((one, 5), (other, 2)):
        names = {path.name for path in choice.files}
        assert {"b-002.dcm", "a-005.dcm"} < names and len(names) == own + 2
