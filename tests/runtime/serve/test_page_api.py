"""The page's API over HTTP, without a browser: what it takes, refuses and tells."""

from __future__ import annotations

import base64
import errno
import gzip
import http.client
import json
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.io.read import read_volume
from runtime.io.volumes.volume import Volume
from runtime.io.write import write_mask
from runtime.measure.phantom import make_phantom
from runtime.model import Model
from runtime.serve.bits import pack, unpack
from runtime.serve.limits import Limits
from runtime.serve.page_events import PageEvents
from runtime.serve.received_files import plain_names
from runtime.serve.shown_volume import ShownVolume
from tests.dicoms import save_series
from tests.runtime.serve.browser import Served
from tests.runtime.serve.page_client import Client, packed

SHAPE = (5, 48, 40)
SPACING_MM = (2.5, 0.8, 0.9)
MIB = 2**20


@pytest.fixture(scope="module")
def phantom() -> NDArray[np.uint8]:
    return make_phantom(SHAPE, seed=2).pixels


@pytest.fixture(scope="module")
def served(model: Model, phantom: NDArray[np.uint8]) -> Iterator[Served]:
    limits = Limits(max_sessions=3, max_image_bytes=MIB)
    served = Served(model, Volume.from_array(phantom, SPACING_MM), limits=limits)
    yield served
    served.stop()


def test_a_point_is_answered_by_events_that_add_up_to_the_mask(
    client: Client, phantom: NDArray[np.uint8]
) -> None:
    stream = client.listen()
    answer = client.ask("POST", "/api/objects/1/point", {"kji": [2, 18, 14], "positive": True})
    assert answer.status == 202
    events = [each for each in stream.until("done", "failed") if each[0] != "ahead"]
    assert events[0] == ("begun", {"seq": answer.json["seq"], "object": 1})
    built = np.zeros(SHAPE, np.uint8)
    for name, data in events:
        if name == "mask":
            (k0, k1), (j0, j1), (i0, i1) = data["box"]
            crop = unpack(base64.b64decode(data["bits"]), [k1 - k0, j1 - j0, i1 - i0])
            built[k0:k1, j0:j1, i0:i1] = crop
    name, done = events[-1]
    assert name == "done" and done["changed"] and not done["cancelled"]
    whole = client.ask("GET", "/api/objects/1/mask")
    assert whole.headers["x-mask-shape"] == "5,48,40"
    np.testing.assert_array_equal(unpack(whole.body, SHAPE), built)
    described = done["described"]
    assert described["voxels"] == np.count_nonzero(built) > 0
    assert described["ml"] == pytest.approx(built.sum() * 2.5 * 0.8 * 0.9 / 1000)
    assert [p["box"] for p in described["prompts"]] == [[[2, 3], [18, 19], [14, 15]]]
    assert len(described["confidence"]) == SHAPE[0] and None not in described["confidence"]
    stream.close()


def test_a_seed_is_kept_to_the_voxel_and_undone(client: Client) -> None:
    stream = client.listen()
    seed = np.zeros(SHAPE, np.uint8)
    seed[1:4, 5:17, 7:30] = 1
    seed[3, 5:16] = 0  # too small an end to stand for the object
    assert client.ask("PUT", "/api/objects/1/mask", pack(seed)).status == 202
    (done,) = [data for name, data in stream.until("done") if name == "done"]
    assert done["described"]["prompted"] == [1, 2]
    (prompt,) = done["described"]["prompts"]
    assert prompt["box"] == [[1, 4], [5, 17], [7, 30]]
    np.testing.assert_array_equal(
        unpack(client.ask("GET", "/api/objects/1/mask").body, SHAPE), seed
    )
    assert client.ask("POST", "/api/objects/1/undo", {}).status == 202
    stream.until("done")
    assert not any(client.ask("GET", "/api/objects/1/mask").body)
    client.ask("POST", "/api/objects/1/redo", {})
    stream.until("done")
    client.ask("POST", "/api/objects/1/reset", {})
    (done,) = [data for name, data in stream.until("done") if name == "done"]
    assert done["changed"] and done["described"]["voxels"] == 0
    stream.close()


def test_a_box_of_several_slices_is_a_prompt_on_its_middle_one(client: Client) -> None:
    stream = client.listen()
    client.ask("POST", "/api/objects/1/box", {"box": [[1, 4], [10, 20], [8, 22]], "positive": True})
    events = stream.until("done")
    assert [data["described"]["prompted"] for name, data in events if name == "done"] == [[2]]
    stream.close()


def test_a_prompt_counts_and_can_be_undone_while_its_object_is_followed(
    client: Client, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, goes_on, compute = client.listen(), Event(), model.compute

    def slowly(graph: str, inputs: object) -> object:
        if graph == "memory_attention":
            assert goes_on.wait(60)
        return compute(graph, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "compute", slowly)
    client.ask("POST", "/api/objects/1/point", {"kji": [2, 18, 14], "positive": True})
    taken = stream.until("taken")[-1][1]["described"]
    assert taken["can_undo"] and not taken["is_complete"]
    assert taken["prompted"] == [2] and len(taken["prompts"]) == 1
    goes_on.set()
    stream.until("done")
    stream.close()


def test_volumes_to_choose_from_are_called_as_the_user_calls_them(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "a.nrrd"
    write_mask(path, np.ones(SHAPE, np.uint8), Volume.from_array(np.ones(SHAPE, np.uint8)))
    names = ["m\u00fcller.nrrd", "b.nrrd", "b.nrrd"]
    answer = client.send(path, path, path, names=names)
    assert answer.status == 409
    assert [choice["title"] for choice in answer.json["choices"]] == names
    assert "'m\u00fcller.nrrd'; 'b.nrrd'; 'b.nrrd'" in answer.json["detail"]


def test_objects_are_counted_while_they_are_there(
    client: Client, served: Served, tmp_path: Path
) -> None:
    lease, size = served.service.leases.of(client.token), int(np.prod(SHAPE))
    added = [client.ask("POST", "/api/objects", {}).json["id"] for _ in range(4)]
    assert lease.held_bytes["objects"] == 4 * size
    for object_id in added[:2]:
        client.ask("DELETE", f"/api/objects/{object_id}")
    assert lease.held_bytes["objects"] == 2 * size
    small = np.ones((2, 3, 4), np.uint8)
    write_mask(tmp_path / "a.nrrd", small, Volume.from_array(small))
    assert client.send(tmp_path / "a.nrrd").status == 200
    # Voxels as they came and in eight bits, and the first object's mask.
    assert sum(lease.held_bytes.values()) == 3 * small.size


def test_a_path_tells_all_its_methods(client: Client) -> None:
    answer = client.ask("DELETE", "/api/volume")
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD, POST"


def test_objects_are_named_coloured_and_removed(client: Client) -> None:
    made = client.ask("POST", "/api/objects", {"name": "Spleen", "colour": "#102030"})
    assert (made.status, made.json["name"], made.json["colour"]) == (201, "Spleen", "#102030")
    number = made.json["id"]
    changed = client.ask("PATCH", f"/api/objects/{number}", {"name": "Milz"})
    assert (changed.json["name"], changed.json["colour"]) == ("Milz", "#102030")
    left = client.ask("DELETE", f"/api/objects/{number}").json["objects"]
    assert [each["id"] for each in left] == [1]
    assert client.ask("DELETE", "/api/objects/1").json["objects"][0]["voxels"] == 0
    for bad in ({"colour": "red"}, {"colour": "#12345g"}, {"name": ""}, {"name": "a\nb"}, {"x": 1}):
        assert client.ask("POST", "/api/objects", bad).status == 400
    for none in ("77", "9" * 5000, "1x", "%D9%A1"):
        assert client.ask("PATCH", f"/api/objects/{none}", {}).status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("point", {"kji": [1, 2], "positive": True}),
        ("point", {"kji": [1, 2, 3.5], "positive": True}),
        ("point", {"kji": [1, 2, 3], "positive": 1}),
        ("point", {"kji": [1, 2, 3]}),
        ("point", b'{"kji": [1, 2, NaN], "positive": true}'),
        ("point", b"[" * 5000),
        ("box", {"box": [[1, 2], [3, 4]], "positive": True}),
        ("undo", {"really": True}),
        ("scribble", b""),
    ],
)
def test_a_request_that_is_none_is_refused(client: Client, path: str, body: Any) -> None:
    answer = client.ask("POST", f"/api/objects/1/{path}", body)
    assert answer.status == 400 and answer.json["detail"]


def test_a_stroke_has_to_fill_its_box(client: Client) -> None:
    said = json.dumps({"box": [[1, 2], [0, 8], [0, 8]], "positive": True})
    assert client.ask("POST", "/api/objects/1/lasso", bytes(8), X_Meta=said).status == 202
    assert client.ask("POST", "/api/objects/1/lasso", bytes(7), X_Meta=said).status == 400
    for box in ([[1, 1], [0, 8], [0, 8]], [[3, 1], [0, 8], [0, 8]], [[0, 99], [0, 999], [0, 999]]):
        said = json.dumps({"box": box, "positive": True})
        assert client.ask("POST", "/api/objects/1/lasso", bytes(8), X_Meta=said).status == 400


def test_what_the_session_refuses_comes_as_an_event(client: Client) -> None:
    stream = client.listen()
    client.ask("POST", "/api/objects/1/point", {"kji": [99, 2, 3], "positive": True})
    name, data = stream.until("failed")[-1]
    assert (name, data["error"]) == ("failed", "PromptError") and "99" in data["detail"]
    assert data["described"]["prompts"] == []
    stream.close()


def test_sessions_end_and_others_are_no_concern_of_the_page(served: Served) -> None:
    client = Client(served.port)
    for method, path in (("GET", "/api/session"), ("GET", "/api/events"), ("POST", "/api/cancel")):
        assert client.ask(method, path).status == 410
    other = client.ask("POST", "/claim").json["lease_token"]
    assert Client(served.port, other).ask("GET", "/api/session").status == 410
    client.ask("POST", "/release", X_Lease_Token=other)
    state = client.claim()
    assert state["notices"]["caution"] and state["volume"]["shape"] == list(SHAPE)
    assert client.ask("POST", "/api/heartbeat", {"active": True}).json["remaining_seconds"] > 0
    first = client.listen()
    second = client.listen()
    assert first.until("over")[-1][1]["reason"] == "replaced"
    assert client.ask("DELETE", "/api/session").status == 204
    assert second.until("over")[-1][1]["reason"] == "expired"
    first.close()
    second.close()
    assert client.ask("GET", "/api/session").status == 410
    assert client.ask("POST", "/api/leave", {}).status == 204  # nothing is left to leave


def test_nothing_can_be_prompted_before_there_is_a_volume(model: Model) -> None:
    served = Served(model)
    client = Client(served.port)
    try:
        assert client.claim()["volume"] is None
        answer = client.ask("POST", "/api/objects/1/point", {"kji": [0, 0, 0], "positive": True})
        assert (answer.status, answer.json["error"]) == (409, "NoImage")
        assert client.ask("GET", "/api/volume").status == 409
        assert client.ask("GET", "/api/export").status == 409
    finally:
        served.stop()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float64"])
def test_files_go_to_the_server_and_come_back_as_nifti(
    client: Client, tmp_path: Path, dtype: str
) -> None:
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    affine = np.array([[0, 0, 2.5, 4], [-0.9, 0, 0, 5], [0, -0.8, 0, 6], [0, 0, 0, 1]])
    if dtype == "float64":
        values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values.T, affine), tmp_path / "scan.nii.gz")
    answer = client.send(tmp_path / "scan.nii.gz")
    assert answer.status == 200, answer.body
    volume = answer.json["volume"]
    assert (volume["name"], volume["shape"]) == ("scan.nii.gz", list(SHAPE))
    back = client.ask("GET", "/api/volume")
    assert back.headers["x-volume-id"] == volume["id"]
    image = nibabel.Nifti1Image.from_bytes(back.body)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, np.nan_to_num(values))
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert volume["lowest"] <= volume["window"][0] < volume["window"][1]


def test_a_dicom_series_and_a_header_with_its_data_are_read(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    save_series(folder)
    slices = sorted(folder.iterdir())
    answer = client.send(*slices, names=["../../same name"] * len(slices))
    assert answer.status == 200, answer.body
    assert answer.json["volume"]["modality"] == "CT"
    assert answer.json["volume"]["shape"][0] == len(slices)

    (tmp_path / "a.raw").write_bytes(bytes(60))
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\ndata file: a.raw\n"
    )
    answer = client.send(tmp_path / "a.nhdr", tmp_path / "a.raw")
    assert (answer.status, answer.json["volume"]["shape"]) == (200, [3, 4, 5])
    answer = client.send(tmp_path / "a.nhdr")
    assert answer.status == 400 and "a.raw" in answer.json["detail"]
    assert str(tmp_path) not in answer.json["detail"] and "/tmp" not in answer.json["detail"]


def test_bodies_that_lie_are_refused(client: Client, tmp_path: Path) -> None:
    whole = packed(save_mask(tmp_path / "one.nrrd"))
    long_head = struct.pack("<I", 2**31) + whole[4:]
    bad = b"\x02\0\0\0{}"
    for body in (b"", b"\x01", whole[:-1], whole + b"x", long_head, bad):
        answer = client.ask("POST", "/api/volume", body)
        assert answer.status == 400 and answer.json["detail"], body[:20]
    for files in ([], [{"name": "a"}], [{"name": "a", "size": -1}], [{"name": 1, "size": 1}]):
        head = json.dumps({"files": files}).encode()
        body = struct.pack("<I", len(head)) + head
        assert client.ask("POST", "/api/volume", body).status == 400
    large = json.dumps({"files": [{"name": "a.nii", "size": 2 * MIB}]}).encode()
    answer = client.ask("POST", "/api/volume", struct.pack("<I", len(large)) + large)
    assert answer.status == 400 and "1" in answer.json["detail"]
    assert client.ask("GET", "/api/session").json["volume"]["shape"] == list(SHAPE)  # as it was


def test_who_stops_an_upload_keeps_what_was_open(
    client: Client, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, goes_on = Event(), Event()

    def slowly(*words: Any) -> Volume:
        is_reading.set()
        assert goes_on.wait(30)
        return read_volume(*words)

    monkeypatch.setattr("runtime.serve.received_files.read_volume", slowly)
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    body = packed(save_mask(tmp_path / "one.nrrd"))
    connection.request("POST", "/api/volume", body, {"X-Lease-Token": client.token})
    assert is_reading.wait(30)
    connection.close()
    client.ask("GET", "/api/session")  # which comes after that
    goes_on.set()
    while served.service.leases.of(client.token).pending:
        time.sleep(0.01)
    assert client.ask("GET", "/api/session").json["volume"]["shape"] == list(SHAPE)


def test_a_small_file_of_a_large_volume_is_refused_unread(client: Client, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((200, 200, 200), np.uint8), np.eye(4))
    (tmp_path / "large.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    answer = client.send(tmp_path / "large.nii.gz")
    assert answer.status == 400 and "8 MiB" in answer.json["detail"]


def test_a_page_is_no_viewer(client: Client, served: Served) -> None:
    for path in ("/undo", "/reset_interactions", "/heartbeat"):
        assert client.ask("POST", path, {}).status == 410
    viewer = Client(served.port)
    viewer.token = viewer.ask("POST", "/claim").json["lease_token"]
    assert viewer.ask("GET", "/api/session").status == 410
    assert viewer.ask("POST", "/release").status == 200


def test_masks_that_wait_for_their_turn_are_counted(
    model: Model, phantom: NDArray[np.uint8]
) -> None:
    most = 4 * phantom.size
    served = Served(model, Volume.from_array(phantom), limits=Limits(max_volume_bytes=most))
    try:
        client = Client(served.port)
        client.claim()
        (lease,) = served.service.leases._leases.values()
        seed, statuses = pack(phantom > 128), []
        stream = client.listen()
        with served.service._page._pages[client.token]._work.turn:
            while not statuses or statuses[-1] == 202:
                answer = client.ask("PUT", "/api/objects/1/mask", seed)
                statuses.append(answer.status)
            assert lease.held_bytes["verbs"] == len(seed) * (len(statuses) - 1)
        assert (answer.status, answer.json["error"]) == (507, "OutOfMemory")
        for _ in statuses[1:]:
            stream.until("done")
        stream.close()
        while lease.held_bytes["verbs"]:
            time.sleep(0.01)
    finally:
        served.stop()


def test_a_session_that_works_is_in_use(client: Client, served: Served) -> None:
    lease = served.service.leases.of(client.token)
    stream = client.listen()
    with served.service._page._pages[client.token]._work.turn:
        client.ask("POST", "/api/objects/1/point", {"kji": [1, 20, 20], "positive": True})
        lease.last_active -= 500
        assert client.ask("POST", "/api/heartbeat", {}).json["remaining_seconds"] > 590
    stream.until("done")
    while served.service._page._pages[client.token].is_busy:
        time.sleep(0.01)
    lease.last_active -= 500
    assert client.ask("POST", "/api/heartbeat", {}).json["remaining_seconds"] < 110
    stream.close()


def test_undo_has_what_images_and_masks_leave(model: Model, phantom: NDArray[np.uint8]) -> None:
    limits = Limits(max_volume_bytes=4 * phantom.size)
    served = Served(model, Volume.from_array(phantom), limits=limits)
    try:
        client = Client(served.port)
        client.claim()
        stream = client.listen()
        for kji in ([2, 18, 14], [1, 20, 20], [3, 18, 14]):
            client.ask("POST", "/api/objects/1/point", {"kji": kji, "positive": True})
            done = stream.until("done")[-1][1]["described"]
        assert (done["can_undo"], done["num_forgotten"]) == (True, 2)
        client.ask("POST", "/api/objects/1/undo", {})
        done = stream.until("done")[-1][1]["described"]
        assert (done["can_undo"], done["can_redo"], done["num_forgotten"]) == (False, True, 2)
        stream.close()
    finally:
        served.stop()


def test_files_under_way_are_counted(model: Model, phantom: NDArray[np.uint8]) -> None:
    limits = Limits(max_image_bytes=MIB, max_volume_bytes=4 * phantom.size)
    served = Served(model, Volume.from_array(phantom), limits=limits)
    try:
        client = Client(served.port)
        client.claim()
        head = json.dumps({"files": [{"name": "a.nii", "size": 4 * phantom.size}]}).encode()
        body = struct.pack("<I", len(head)) + head + bytes(4 * phantom.size)
        assert client.ask("POST", "/api/volume", body).status == 507
        answer = client.ask("POST", "/api/volume", packed_none())
        assert answer.status == 400  # and are not, once they are gone
    finally:
        served.stop()


def test_a_full_temporary_folder_is_a_lack_of_room(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.nii.gz"
    zeros = np.zeros(SHAPE, np.uint8)
    write_mask(path, zeros, Volume.from_array(zeros))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runtime.serve.received_files._write", full)
    monkeypatch.setattr("runtime.files.atomic.sync_file", full)
    for answer in (client.send(path), client.ask("GET", "/api/export?format=nii.gz")):
        assert (answer.status, answer.json["error"]) == (507, "StorageFull")
        assert "has no room (No space left on device)" in answer.json["detail"]
        assert "TMPDIR" in answer.json["detail"] and "scratch-" not in answer.json["detail"]
    monkeypatch.undo()
    assert client.ask("GET", "/api/export?format=nii.gz").status == 200
    assert client.send(path).status == 200


def test_voxels_are_counted_before_they_are_read(
    model: Model, phantom: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tmp_path / "small.nii.gz", tmp_path / "large.nii.gz"
    for path, depth in ((small, 1), (large, 200)):
        zeros = np.zeros((depth, *SHAPE[1:]), np.uint8)
        write_mask(path, zeros, Volume.from_array(zeros))
    read: list[Volume] = []
    look = ShownVolume.of
    monkeypatch.setattr(ShownVolume, "of", lambda v, name: read.append(v) or look(v, name))
    served = Served(
        model, Volume.from_array(phantom), limits=Limits(max_volume_bytes=10 * phantom.size)
    )
    try:
        read.clear()
        client = Client(served.port)
        client.claim()
        assert client.send(large).status == 507
        assert not read
        assert client.send(small).status == 200
        assert len(read) == 1
    finally:
        served.stop()


def packed_none() -> bytes:
    return struct.pack("<I", 2) + b"{}"


def test_masks_are_exported_together(client: Client, tmp_path: Path) -> None:
    stream = client.listen()
    client.ask("POST", "/api/objects", {})
    for number in (1, 2):
        seed = np.zeros(SHAPE, np.uint8)
        seed[number, 10:20, 10:20] = 1
        client.ask("PUT", f"/api/objects/{number}/mask", pack(seed))
        stream.until("done")
    for suffix in ("nii.gz", "nrrd"):
        answer = client.ask("GET", f"/api/export?format={suffix}")
        (tmp_path / f"masks.{suffix}").write_bytes(answer.body)
        mask = read_volume(tmp_path / f"masks.{suffix}")
        assert mask.spacing_mm == pytest.approx(SPACING_MM)
        assert [int((mask.array == each).sum()) for each in (1, 2)] == [100, 100]
    assert client.ask("GET", "/api/export?format=exe").status == 400
    stream.close()


def test_the_page_is_a_fixed_set_of_files(served: Served) -> None:
    client = Client(served.port)
    index = client.ask("GET", "/")
    assert index.status == 200 and b"niivue.umd.js" in index.body
    assert index.headers["content-security-policy"].startswith("default-src 'self'")
    again = client.ask("GET", "/page/main.js", If_None_Match="x")
    assert again.status == 200
    tag = again.headers["etag"]
    assert client.ask("GET", "/page/main.js", If_None_Match=tag).status == 304
    zipped = client.ask("GET", "/page/niivue.umd.js", Accept_Encoding="gzip")
    plain = client.ask("GET", "/page/niivue.umd.js")
    assert gzip.decompress(zipped.body) == plain.body and len(zipped.body) < MIB
    for path in (
        "/page/../page_api.py",
        "/page/%2e%2e%2fpage_api.py",
        "/page/nothing.js",
        "/page/",
    ):
        assert client.ask("GET", path).status == 404


@pytest.mark.parametrize("name", ["Scan\u202fPM.nii.gz", "a\u200cb.nii.gz", "\r\ud800.nii.gz"])
def test_files_may_have_names_that_cannot_be_printed(
    client: Client, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "mask.nii.gz"
    write_mask(path, np.ones((2, 8, 8), np.uint8), Volume.from_array(np.ones((2, 8, 8))))
    shown = client.send(path, names=[name]).json["volume"]["name"]
    assert shown.isprintable() and shown.endswith(".nii.gz") and shown[0] in "Sa "


def test_names_become_plain() -> None:
    names = ["a.nii.gz", "../b.nrrd", "C:\\scans\\c.dcm", "A.nii.gz", ".hidden", "ü.mha", "x" * 200]
    assert plain_names(names) == [
        *("a.nii.gz", "b.nrrd", "c.dcm", "_file-00003.nii.gz"),
        *("_file-00004.hidden", "_file-00005.mha", "_file-00006"),
    ]


def test_two_files_never_share_a_name() -> None:
    names = ["file-00001.dcm", "\u00e9.dcm", "_file-00003.dcm", "a/\u00e9.dcm", "file-00001.dcm"]
    assert len({name.lower() for name in plain_names(names)}) == len(names)


def test_a_window_is_shown_for_what_has_no_spread() -> None:
    shown = ShownVolume.of(Volume.from_array(np.full((2, 3, 4), np.nan)), "empty")
    assert shown.describe()["lowest"] == 0.0
    size, pieces = shown.nifti()
    assert size == len(b"".join(pieces))


def test_values_that_float32_has_not_are_shown_as_its_last_ones() -> None:
    array = np.zeros((1, 2, 3))
    array[0] = [[1e300, -1e300, np.nan], [np.inf, -np.inf, 5.0]]
    size, pieces = ShownVolume.of(Volume.from_array(array), "huge").nifti()
    shown = np.frombuffer(b"".join(pieces)[size - 4 * array.size :], np.float32).tolist()
    most = float(np.finfo(np.float32).max)
    assert shown == [most, -most, -most, most, -most, 5.0]


def test_a_reader_that_is_far_behind_is_sent_away() -> None:
    import asyncio

    async def go() -> list[bytes | None]:
        events, found = PageEvents(), []
        stream = events.read({})
        found.append(await anext(stream))
        for _ in range(70):
            events.send("mask", bits="x" * MIB)
        async for event in stream:
            found.append(event)
        return found

    with ThreadPoolExecutor(1) as thread:  # this one's event loop may be a browser's
        found = thread.submit(asyncio.run, go()).result()
    assert found[-1] is not None and b'"behind"' in found[-1]


def save_mask(path: Path) -> Path:
    labels = np.zeros((3, 4, 5), np.uint8)
    write_mask(path, labels, Volume.from_array(labels))
    return path
