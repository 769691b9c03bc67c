"""Folders of DICOM: what lies beside a series is left alone, what belongs to it and is damaged is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from runtime.errors import InputError, SeriesError
from runtime.io import read_volume
from tests.dicoms import OTHER_SERIES, SERIES, SHAPE, an_object, bundled, save_series

UIDS = [f"1.2.826.0.1.{n}" for n in (4, 17, 90, 121, 3000)]
HASHES = ["03fe1", "a0b44c9f", "9", "77e", "e3"]


def save_object(path: Path, sop_class: str, series: str = OTHER_SERIES) -> None:
    """An object without pixels."""
    an_object(sop_class, series, ExplicitVRLittleEndian).save_as(path, enforce_file_format=True)


def thumbs(folder: Path) -> None:
    (folder / "Thumbs.db").touch()
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" * 100)
    (folder / "desktop.ini").write_text("[.ShellClassInfo]")


def notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("acquired on a Monday")
    (folder / "report 12.pdf").write_bytes(b"%PDF-1.7" + bytes(range(256)) * 9)
    (folder / "README").write_text("read me")
    (folder / "LOCKFILE").touch()
    (folder / "000.json").write_text("{}")


def folders(folder: Path) -> None:
    (folder / "005.dcm").mkdir()
    save_series(folder / "below", depth=2)


def pipes(folder: Path) -> None:
    """To be opened only by who wants to wait."""
    os.mkfifo(folder / "005.dcm")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))


def links(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "absent")
    (folder / "loop.dcm").symlink_to(folder / "loop.dcm")
    (folder / "device.dcm").symlink_to("/dev/zero")


def reports(folder: Path) -> None:
    save_object(folder / "DICOMDIR", MediaStorageDirectoryStorage)
    save_object(folder / "005.dcm", "1.2.840.10008.5.1.4.1.1.88.11", SERIES)
    save_object(folder / "private.dcm", "1.3.12.2.1107.5.9.1")
    (folder / "contours").write_bytes(bundled("rtstruct.dcm").read_bytes())


@pytest.mark.parametrize("beside", [thumbs, notes, folders, pipes, links, reports])
def test_what_lies_beside_a_series_is_left_alone(
    tmp_path: Path, beside: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = save_series(tmp_path)
    monkeypatch.chdir(tmp_path)
    beside(tmp_path)
    assert np.array_equal(read_volume(tmp_path).array, array)


def empty(data: bytes) -> bytes:
    return b""


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def text(data: bytes) -> bytes:
    return b"this is no slice at all " * 40


def cut_in_its_class(data: bytes) -> bytes:
    return data[: data.index(b"1.2.840.10008.5.1.4.1.1.2", 200) + 9]


def without_prefix(data: bytes) -> bytes:
    return data.replace(b"DICM", b"DICN", 1)


def cut_before_its_data_set(data: bytes) -> bytes:
    """Its class, which is written twice, spliced into one that nobody knows."""
    return data[: data.index(b"\x08\x00\x16\x00")].replace(
        b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.11.12"
    )


def of_another_class(data: bytes) -> bytes:
    """Pixels are lost, and what the file says that it is does not agree with itself."""
    at = data.index(b"1.2.840.10008.5.1.4.1.1.2", 200)
    return (data[:at] + b"1.2.840.10008.5.1.4.1.1.88" + data[at + 26 :]).replace(
        b"\xe0\x7f", b"\xe2\x7f"
    )


def with_a_long_element(data: bytes) -> bytes:
    """One that steps over all that follows."""
    at = data.index(b"\x08\0\x3e\x10LO") + 6
    return data[:at] + b"\xff\xff" + data[at + 2 :]


def cut_in_its_pixels(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize(
    "damage",
    [
        empty,
        zeroed,
        text,
        cut_in_its_class,
        without_prefix,
        cut_before_its_data_set,
        of_another_class,
        with_a_long_element,
        cut_in_its_pixels,
    ],
)
@pytest.mark.parametrize(
    "names",
    [
        [f"{i:03}.dcm" for i in range(SHAPE[0])],
        [f"IM{i}" for i in range(SHAPE[0])],
        UIDS,
        HASHES,
    ],
    ids=["suffix", "number", "uid", "hash"],
)
@pytest.mark.parametrize("index", [0, SHAPE[0] - 1])
def test_a_damaged_slice_is_refused_by_name(
    tmp_path: Path, names: list[str], damage: Callable[[bytes], bytes], index: int
) -> None:
    """The first or the last, without which the others would still be evenly spaced."""
    save_series(tmp_path, names=names)
    path = tmp_path / names[index]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        SeriesError, match=rf"{names[index]}\b.*(cut short or damaged|longer than|damaged)"
    ):
        read_volume(tmp_path)


def test_a_slice_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    """Such as one that was never fetched."""
    save_series(tmp_path)
    (tmp_path / "004.dcm").unlink()
    (tmp_path / "004.dcm").symlink_to(tmp_path / ".annex" / "004")
    with pytest.raises(SeriesError, match=r"004\.dcm .* \(a link to nothing\)"):
        read_volume(tmp_path)


@pytest.mark.parametrize(("name", "is_slice"), [("004.dcm", True), ("notes.txt", False)])
def test_a_file_that_may_not_be_read_matters_if_it_is_a_slice(
    tmp_path: Path, name: str, is_slice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = save_series(tmp_path)
    (tmp_path / "notes.txt").write_text("secret")
    opened = os.open

    def forbid(path: Path, *arguments: int) -> int:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", forbid)
    if is_slice:
        with pytest.raises(SeriesError, match=r"004\.dcm .*Permission denied"):
            read_volume(tmp_path)
    else:
        assert np.array_equal(read_volume(tmp_path).array, array)


def test_slices_may_be_links(tmp_path: Path) -> None:
    array = save_series(tmp_path / "kept")
    (tmp_path / "series").mkdir()
    for path in (tmp_path / "kept").iterdir():
        (tmp_path / "series" / path.name).symlink_to(path)
    assert np.array_equal(read_volume(tmp_path / "series").array, array)


@pytest.mark.parametrize("name", ["pipe", "pipe.dcm"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=name):
        read_volume(tmp_path / name)


def test_descriptions_of_any_character_set_are_listed(tmp_path: Path) -> None:
    def describe(dataset: Dataset, index: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SeriesDescription = "köpf 頭"

    save_series(tmp_path, describe)
    save_series(tmp_path, series=OTHER_SERIES, names=[f"b{i}.dcm" for i in range(SHAPE[0])])
    for path in tmp_path.glob("b*.dcm"):
        path.write_bytes(path.read_bytes().replace(b"LO\4\0thin", b"LO\4\0th\xff\xfe"))
    with pytest.raises(SeriesError, match="'köpf 頭'") as caught:
        read_volume(tmp_path)
    str(caught.value).encode()


def captured(dataset: Dataset, index: int) -> None:
    """A dose report, which scanners call what they call their images."""
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage


def segmented(dataset: Dataset, index: int) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage


def localising(dataset: Dataset, index: int) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


@pytest.mark.parametrize("other", [captured, segmented, localising])
def test_the_scan_is_meant_and_not_what_a_scanner_puts_beside_it(
    tmp_path: Path, other: Callable[[Dataset, int], None]
) -> None:
    names = [f"0-{i}.dcm" for i in range(SHAPE[0])]  # before those of the scan
    save_series(tmp_path, other, series=OTHER_SERIES, names=names)
    array = save_series(tmp_path, lambda dataset, index: None)
    assert np.array_equal(read_volume(tmp_path).array, array)


@pytest.mark.parametrize("alone", [captured, localising])
def test_what_is_no_scan_can_be_meant_too(
    tmp_path: Path, alone: Callable[[Dataset, int], None]
) -> None:
    array = save_series(tmp_path, alone)
    assert np.array_equal(read_volume(tmp_path).array, array)
    save_series(tmp_path, series=OTHER_SERIES, depth=3, names=["x", "y", "z"])
    assert np.array_equal(read_volume(tmp_path, series=SERIES).array, array)


@pytest.fixture
def reconstructions(tmp_path: Path) -> Path:
    """Two of one scan, of five slices and of three."""

    def describe(number: int, name: str) -> Callable[[Dataset, int], None]:
        def edit(dataset: Dataset, index: int) -> None:
            dataset.SpecificCharacterSet = "ISO_IR 192"
            dataset.PatientName = "Köhler^Jö=漢字"
            dataset.SeriesNumber, dataset.SeriesDescription = number, name

        return edit

    save_series(tmp_path, describe(2, "Abd venös 2.5"))
    thick = describe(3, "Abd venös 5.0")
    save_series(tmp_path, thick, series=OTHER_SERIES, depth=3, names=["x", "y", "z"])
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "depth"),
    [
        ({"SeriesDescription": "*VENÖS 2*"}, 5),
        ({"SeriesDescription": "Abd venös 5.?"}, 3),
        ({"SeriesNumber": "3", "PatientName": "Köhler^*"}, 3),
    ],
)
def test_a_series_is_chosen_by_what_its_headers_say(
    reconstructions: Path, asked: dict[str, str], depth: int
) -> None:
    assert len(read_volume(reconstructions, series=asked).array) == depth


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"Modality": "CT"}, "2 series that are so.*'Abd venös 2.5', number 2, 5 slices"),
        ({"SeriesNumber": "4"}, "no series that is SeriesNumber=4.*number 2"),
        ({"BodyPartExamined": "*A*"}, "no series that is"),  # of which the headers say nothing
    ],
)
def test_not_one_series_that_is_so_is_refused_with_all_there_are(
    reconstructions: Path, asked: dict[str, str], why: str
) -> None:
    with pytest.raises(SeriesError, match=f"(?s){why}"):
        read_volume(reconstructions, series=asked)
