"""What the page downloads of a DICOM series: a segmentation of its images, read back by highdicom."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from runtime.errors import InputError
from runtime.io.dicom.seg import Algorithm, SegmentationOptions
from runtime.io.read import read_volume
from runtime.io.volumes.volume import Volume
from runtime.model import Model
from runtime.serve import shown_volume
from runtime.serve.bits import pack
from runtime.serve.limits import Limits
from runtime.serve.object_masks import ObjectMasks, extent
from runtime.serve.page_exports import check_export
from runtime.serve.shown_volume import NOT_DICOM, ShownVolume
from tests.dicoms import OBLIQUE, SHAPE, SPACING_ZYX_MM, save_frames, save_series
from tests.runtime.serve.browser import Served
from tests.runtime.serve.page_client import Client

MIB = 2**20


def referable(dataset: Dataset, *_: object) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "P7"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    save_series(folder, referable, orientation=OBLIQUE)
    return folder


@pytest.fixture(scope="module")
def served(model: Model, series: Path) -> Iterator[Served]:
    made_by = SegmentationOptions(algorithm=Algorithm(model="nano"))
    opened = read_volume(series)
    served = Served(model, opened, limits=Limits(max_sessions=3), segmentation=made_by)
    yield served
    served.stop()


def some_masks() -> list[np.ndarray]:
    """Of two objects that share voxels."""
    one, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[1:4, 1:4, 2:7] = 1
    other[2:5, 3:6, 1:5] = 1
    return [one, other]


def draw(client: Client, masks: list[np.ndarray]) -> None:
    stream = client.listen()
    for number, mask in enumerate(masks, 1):
        client.ask("PUT", f"/api/objects/{number}/mask", pack(mask))
        stream.until("done")
    stream.close()


def check(content: bytes, path: Path, series: Path, masks: list[np.ndarray]) -> None:
    """Each mask on its images, the geometry theirs."""
    path.write_bytes(content)
    images = {slice_.SOPInstanceUID: slice_ for slice_ in map(dcmread, series.iterdir())}
    volume = read_volume(series)
    order = [str(dcmread(frame.path).SOPInstanceUID) for frame in volume.frames]
    there = highdicom.seg.segread(path)
    pixels = there.get_pixels_by_source_instance(order, assert_missing_frames_are_empty=True)
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(pixels[..., number] != 0, mask != 0)
    geometry = there.get_volume_geometry()
    assert geometry is not None
    np.testing.assert_allclose(geometry.spacing, SPACING_ZYX_MM, atol=1e-5)
    for frame in there.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        image = images[source.ReferencedSOPInstanceUID]
        assert source.ReferencedSOPClassUID == image.SOPClassUID
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, image.ImagePositionPatient
        )
    first = images[order[0]]
    assert (there.StudyInstanceUID, there.PatientID) == (first.StudyInstanceUID, "P7")
    assert there.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID


def test_what_was_opened_by_its_path(client: Client, series: Path, tmp_path: Path) -> None:
    assert client.ask("GET", "/api/session").json["volume"]["no_segmentation"] is None
    answer = client.ask("GET", "/api/export?format=dcm")
    assert answer.status == 400 and "no mask yet" in answer.json["detail"]
    client.ask("PATCH", "/api/objects/1", {"name": "Left\\kidney"})
    client.ask("POST", "/api/objects", {"name": "Lesion, the large one"})
    masks = some_masks()
    draw(client, masks)
    answer = client.ask("GET", "/api/export?format=dcm")
    assert answer.status == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="masks.dcm"'
    check(answer.body, tmp_path / "out.dcm", series, masks)
    there = highdicom.seg.segread(tmp_path / "out.dcm")
    labels = [segment.SegmentLabel for segment in there.SegmentSequence]
    assert labels == ["Left/kidney", "Lesion, the large one"]
    assert there.ManufacturerModelName == "nano"


def test_files_that_were_sent_and_are_gone(client: Client, series: Path, tmp_path: Path) -> None:
    answer = client.send(*sorted(series.iterdir()))
    assert answer.status == 200 and answer.json["volume"]["no_segmentation"] is None
    client.ask("POST", "/api/objects", {})
    masks = [np.zeros(SHAPE, np.uint8), some_masks()[1]]
    draw(client, masks)
    answer = client.ask("GET", "/api/export?format=dcm")
    assert answer.status == 200, answer.body
    check(answer.body, tmp_path / "out.dcm", series, masks[1:])  # an empty object is no segment
    labels = highdicom.seg.segread(tmp_path / "out.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in labels] == ["Object 2"]


def test_the_frames_of_one_file(client: Client, tmp_path: Path) -> None:
    save_frames(tmp_path / "in.dcm", edit=referable)
    volume = client.send(tmp_path / "in.dcm").json["volume"]
    assert volume["no_segmentation"] is None
    mask = np.zeros(volume["shape"], np.uint8)
    mask[1, 2:4, 3:6] = 1
    draw(client, [mask])
    (tmp_path / "out.dcm").write_bytes(client.ask("GET", "/api/export?format=dcm").body)
    there = highdicom.seg.segread(tmp_path / "out.dcm")
    (frame,) = there.PerFrameFunctionalGroupsSequence
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == dcmread(tmp_path / "in.dcm").SOPInstanceUID
    np.testing.assert_array_equal(there.pixel_array.reshape(mask.shape[1:]) != 0, mask[1] != 0)


def test_why_there_is_none(tmp_path: Path, series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = ShownVolume.of(Volume.from_array(np.zeros(SHAPE)), "a")
    assert shown.describe()["no_segmentation"] == NOT_DICOM
    with pytest.raises(InputError, match="DICOM images"):
        check_export(shown, "dcm")
    check_export(shown, "nrrd")
    shutil.copytree(series, tmp_path / "patient")
    (first, *_) = sorted((tmp_path / "patient").iterdir())
    dataset = dcmread(first)
    del dataset.FrameOfReferenceUID
    dataset.save_as(first)
    why = ShownVolume.of(read_volume(tmp_path / "patient"), "a").describe()["no_segmentation"]
    assert "Frame of Reference" in why and first.name in why and str(tmp_path) not in why
    monkeypatch.setattr(shown_volume, "find_spec", lambda name: None)
    why = ShownVolume.of(read_volume(series), "a").describe()["no_segmentation"]
    assert "pip install 'medsam2-runtime[dicom-seg]'" in why


def test_headers_are_counted(series: Path) -> None:
    dicom = ShownVolume.of(read_volume(series), "a")
    headers = sum(len(path.read_bytes()) for path in series.iterdir()) - 2 * np.prod(SHAPE)
    assert headers < dicom.sources_bytes < 20 * headers
    assert ShownVolume.of(Volume.from_array(np.zeros(SHAPE)), "a").sources_bytes == 0


def test_objects_at_one_moment() -> None:
    one, other = (mask != 0 for mask in some_masks())
    crops = {}
    for number, mask in ((1, one), (3, other)):
        spans = extent(mask)
        assert spans is not None
        crops[number] = spans, mask[tuple(slice(*span) for span in spans)]
    masks = ObjectMasks(SHAPE, crops, {})
    assert masks.object_ids == [1, 3]
    np.testing.assert_array_equal(masks.mask(3), other)
    np.testing.assert_array_equal(masks.labels(), np.where(other, 3, one))
    assert extent(np.zeros(SHAPE, bool)) is None
