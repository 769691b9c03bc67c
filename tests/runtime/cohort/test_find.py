"""Which studies there are, what is asked of each, and when one has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from runtime.cohort.find import find_studies, located
from runtime.cohort.study import StudyPrompts, check_prompted
from runtime.errors import InputError, MissingInput, SeriesError
from runtime.io.dicom import read_series
from tests.dicoms import OTHER_SERIES, an_object, save_frames, save_series

VOLUME = np.zeros((3, 4, 5), np.int16)


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        *("a/ct.nii.gz", "a/ct.json", "a/mr.nrrd", "a/mr.labels.nrrd", "a/mr.labels.nii.gz"),
        *("b/plain.mha", "b/notes.txt", "b/.hidden.nii", ".trash/ct.nii", "case.npz"),
        *("twice/x.nii", "twice/x.nrrd", "twice/x.json"),
    ):
        put(tmp_path / name)
    (tmp_path / "p1").mkdir()
    save_series(tmp_path / "p1" / "series")
    put(tmp_path / "p1" / "series" / "prompts.json")
    save_series(tmp_path / "p2")
    put(tmp_path / "p2.labels.nii.gz")
    return tmp_path


def test_every_volume_and_series_is_a_study_with_what_lies_beside_it(tree: Path) -> None:
    found = {study.name: study for study in find_studies(tree)}
    assert {
        name: (study.asked.source, Path(study.asked.text).name) for name, study in found.items()
    } == {
        "a/ct": ("file", "ct.json"),
        "a/mr": ("labels", "mr.labels.nii.gz"),
        "b/plain": ("nothing", ""),
        "case": ("labels", "case.npz"),
        "p1/series": ("file", "prompts.json"),
        "p2": ("labels", "p2.labels.nii.gz"),
        "twice/x.nii": ("file", "x.json"),
        "twice/x.nrrd": ("file", "x.json"),
    }
    assert found["p1/series"].path.is_dir()
    assert found["a/ct"].size_bytes == 1


def test_a_stamp_changes_with_every_file_that_is_read(tree: Path) -> None:
    put(tree / "a" / "m.png")
    prompts = {"objects": [{"prompts": [{"slice": 0, "mask": "m.png"}]}]}
    put(tree / "a" / "ct.json", json.dumps(prompts))

    def stamps() -> dict[str, str]:
        return {study.name: study.stamp for study in find_studies(tree)}

    before = stamps()
    assert stamps() == before
    changing = [
        ("a/ct.nii.gz", "a/ct"),
        ("a/ct.json", "a/ct"),
        ("a/m.png", "a/ct"),
        ("a/mr.labels.nii.gz", "a/mr"),
        ("p1/series/prompts.json", "p1/series"),
    ]
    for file, name in changing:
        os.utime(tree / file, ns=(1, 1))
        after = stamps()
        assert {n for n in after if after[n] != before[n]} == {name}
        before = after


def test_what_a_converter_tells_of_a_scan_is_no_prompts(tree: Path) -> None:
    def asked(text: str, name: str) -> str:
        put(tree / f"{name}.json", text)
        return {study.name: study.asked.source for study in find_studies(tree)}[name]

    assert asked('{"Modality": "MR", "EchoTime": 0.03}', "a/mr") == "labels"
    assert asked('{"Modality": "MR"}', "b/plain") == "file"  # which will say what is wrong
    for prompts in ('{"objects": []}', "{", "[]"):
        assert asked(prompts, "a/mr") == "file"


def test_a_slice_more_is_another_series(tree: Path) -> None:
    before = {study.name: study.stamp for study in find_studies(tree)}["p2"]
    first = next(path for path in sorted((tree / "p2").iterdir()))
    (tree / "p2" / "more.dcm").write_bytes(first.read_bytes())
    assert {study.name: study.stamp for study in find_studies(tree)}["p2"] != before


def test_a_table_calls_studies_with_or_without_their_suffix(tree: Path) -> None:
    for name in ("a/ct.nii.gz", "a/ct", "./a//ct"):
        assert located(tree, name) == ("a/ct", tree / "a" / "ct.nii.gz")
    assert located(tree, "p2") == ("p2", tree / "p2")
    for name in ("nowhere", "long" * 100):
        assert located(tree, name) == (name, tree / name)
    for name in ("../a/ct", "/etc/passwd", "."):
        with pytest.raises(InputError, match="path below"):
            located(tree, name)


def test_a_table_calls_studies_as_they_are_found(tree: Path) -> None:
    put(tree / "p2.nii")
    (tree / "objects").mkdir()
    for name in ("a", "b", "b.dcm"):
        save_frames(tree / "objects" / name)
    found = {study.path: study.name for study in find_studies(tree)}
    assert found[tree / "p2.nii"] == "p2.nii"
    for path, name in found.items():
        assert located(tree, str(path.relative_to(tree))) == (name, path)


def test_slices_without_preamble_are_a_study(tree: Path) -> None:
    for path in (tree / "p1" / "series").glob("*.dcm"):
        path.write_bytes(path.read_bytes()[132:])
    (tree / "p1" / "notes").mkdir()
    put(tree / "p1" / "notes" / "readme", "nothing here is DICOM")
    found = [study.name for study in find_studies(tree / "p1")]
    assert found == ["series"]
    assert read_series(tree / "p1" / "series").shape[0] == 5


def test_a_volume_among_slices_does_not_hide_them(tmp_path: Path) -> None:
    save_series(tmp_path / "p")
    put(tmp_path / "p" / "ct.nii.gz")

    def found() -> dict[str, StudyPrompts]:
        return {study.name: study.asked for study in find_studies(tmp_path)}

    assert list(found()) == ["p/ct"]
    with pytest.raises(
        InputError, match=r"p/ct has no prompts; put ct\.json.*put p\.json beside their"
    ):
        check_prompted(found()["p/ct"], "p/ct")
    asked = put(tmp_path / "p.json")
    assert found() == {
        "p": StudyPrompts("file", str(asked)),
        "p/ct": StudyPrompts("nothing", "p"),
    }
    asked.unlink()
    put(tmp_path / "p" / "ct.json")
    assert {name: asked.source for name, asked in found().items()} == {"p/ct": "file"}


@pytest.mark.parametrize("called", ["IM{}", "1.2.3.{}", "slice{}.dcm"])
def test_slices_behind_many_other_files_are_found(tmp_path: Path, called: str) -> None:
    save_series(tmp_path / "p", names=[called.format(number) for number in range(5)])
    for number in range(20):
        put(tmp_path / "p" / f"0{number}.jpg")
    assert [study.name for study in find_studies(tmp_path)] == ["p"]


def test_two_series_in_a_folder_are_told_apart_in_words(tmp_path: Path) -> None:
    save_series(tmp_path / "p")
    save_series(tmp_path / "p", series=OTHER_SERIES, names=[f"x{i}" for i in range(5)])
    with pytest.raises(SeriesError, match="or put each into a folder of its own"):
        read_series(tmp_path / "p")


def test_a_folder_that_is_not_there_is_missed(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        list(find_studies(tmp_path / "nowhere"))


REPORT = "1.2.840.10008.5.1.4.1.1.88.67"


def save_reports(folder: Path, count: int = 1) -> None:
    """Before the slices, by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        report = an_object(REPORT, OTHER_SERIES, ExplicitVRLittleEndian, number + 1)
        report.save_as(folder / f"00-{number:03}.dcm", enforce_file_format=True)


def test_dicom_without_a_scan_is_no_study_unless_something_is_asked_of_it(tmp_path: Path) -> None:
    """Dose reports, the DICOMDIR of a medium, scouts: nobody has forgotten their prompts."""

    def scout(dataset: Dataset, index: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    (tmp_path / "p").mkdir()
    save_series(tmp_path / "p" / "scan")
    save_series(tmp_path / "p" / "scout", scout, depth=2)
    save_series(tmp_path / "p" / "wanted", scout, depth=2)
    put(tmp_path / "p" / "wanted.json")
    save_reports(tmp_path / "p" / "dose")
    directory = an_object(MediaStorageDirectoryStorage, OTHER_SERIES, ExplicitVRLittleEndian)
    directory.save_as(tmp_path / "p" / "DICOMDIR", enforce_file_format=True)
    assert [study.name for study in find_studies(tmp_path)] == ["p/scan", "p/wanted"]


def test_a_scan_behind_many_reports_is_found(tmp_path: Path) -> None:
    save_reports(tmp_path / "p", count=20)
    save_series(tmp_path / "p")
    assert [study.name for study in find_studies(tmp_path)] == ["p"]


def test_damaged_slices_are_a_study_which_will_say_so(tmp_path: Path) -> None:
    save_series(tmp_path / "p", depth=1)
    slice_ = tmp_path / "p" / "000.dcm"
    slice_.write_bytes(slice_.read_bytes()[:400])
    assert [study.name for study in find_studies(tmp_path)] == ["p"]


def test_only_series_that_are_so_are_studies_and_what_is_asked_of_something(tmp_path: Path) -> None:
    def describe(name: str) -> Callable[[Dataset, int], None]:
        return lambda dataset, index: setattr(dataset, "SeriesDescription", name)

    save_series(tmp_path / "thin", describe("ven 2.5"), series="1.2.3")
    save_series(tmp_path / "thick", describe("ven 5.0"))
    save_series(tmp_path / "both", describe("ven 5.0"), names=[f"a{i}" for i in range(5)])
    save_series(tmp_path / "both", describe("ven 2.5"), series=OTHER_SERIES)
    save_series(tmp_path / "asked", describe("ven 5.0"))
    put(tmp_path / "asked.json")
    put(tmp_path / "ct.nii.gz")
    (tmp_path / "frames").mkdir()
    for number in range(2):
        save_frames(tmp_path / "frames" / f"{number}.dcm", describe_one(f"ven {number}.5"))
    wanted = {"SeriesDescription": "*2.5", "Modality": "CT"}
    assert [study.name for study in find_studies(tmp_path, wanted)] == [
        *("ct", "asked", "both", "thin")
    ]
    assert [study.name for study in find_studies(tmp_path, "1.2.3")] == ["ct", "asked", "thin"]
    wanted = {"SeriesDescription": "ven 1*", "Modality": "MR"}
    assert [study.name for study in find_studies(tmp_path, wanted)] == ["ct", "asked", "frames/1"]


def describe_one(name: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, "SeriesDescription", name)
