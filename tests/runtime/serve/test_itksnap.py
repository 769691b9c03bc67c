"""ITK-SNAP's requests as its libcurl sends them, old and new."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pycurl
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.serve.itksnap import inflate
from runtime.serve.limits import Limits
from tests.runtime.serve.fakes import FakeSession, Running, running

# libcurl's older way of sending forms is the one that ITK-SNAP uses.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPPOST:DeprecationWarning")

IMAGE = np.random.default_rng(1).normal(size=(5, 24, 30)).astype(np.float32)
KEY = "0123456789abcdefghij"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


def curl(url: str, form: dict[str, tuple[bytes, str]] | None = None) -> tuple[int, Any, str]:
    """Status, JSON and everything libcurl logged of one request, sent as ITK-SNAP's client does."""
    output, log = io.BytesIO(), []
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url)
    handle.setopt(pycurl.WRITEDATA, output)
    handle.setopt(pycurl.VERBOSE, True)
    handle.setopt(pycurl.DEBUGFUNCTION, lambda kind, text: log.append(text if kind < 3 else b""))
    if form is not None:
        parts = [
            (
                name,
                (
                    pycurl.FORM_BUFFER,
                    "image.gz" if name == "file" else "",
                    pycurl.FORM_BUFFERPTR,
                    content,
                    pycurl.FORM_CONTENTTYPE,
                    kind,
                )
                if name == "file"
                else (pycurl.FORM_CONTENTS, content, pycurl.FORM_CONTENTTYPE, kind),
            )
            for name, (content, kind) in form.items()
        ]
        handle.setopt(pycurl.HTTPPOST, parts)
    handle.perform()
    status = handle.getinfo(pycurl.RESPONSE_CODE)
    handle.close()
    return status, json.loads(output.getvalue()), b"".join(log).decode("latin-1")


def form_of(array: NDArray[Any], **other: Any) -> dict[str, tuple[bytes, str]]:
    metadata = {
        "dimensions": list(array.shape[::-1]),
        "spacing": [0.5, 0.5, 3.0],
        "origin": [0.0, 0.0, 0.0],
        "direction": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "components_per_pixel": 1,
        "component_type": array.dtype.name,
    } | other
    return {
        "file": (gzip.compress(array.tobytes()), "application/gzip"),
        "metadata": (json.dumps(metadata, indent=3).encode(), "application/json"),
    }


def mask_of(answer: Any, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Decoded as the client does: no line breaks, one gzip member, a byte a voxel."""
    assert answer["status"] == "success" and "\n" not in answer["result"]
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    raw = inflater.decompress(base64.b64decode(answer["result"], validate=True))
    assert inflater.eof and not inflater.unused_data
    assert len(raw) == np.prod(shape)
    return np.frombuffer(raw, np.int8).reshape(shape)


@pytest.mark.parametrize("prefix", ["", "/v2"])
def test_what_itksnap_does(server: Running, prefix: str) -> None:
    url = server.url + prefix
    status, answer, _ = curl(f"{url}/status")
    assert (status, answer["status"]) == (200, "ok")
    assert [int(part) for part in answer["version"].split(".")] >= [0, 1, 2]
    _, answer, _ = curl(f"{url}/models")
    model = answer["models"][0]
    assert model["dimensions"] == 3 and "scribble" in model["interactions"]
    start = f"{url}/start_session" + (f"/{model['id']}" if prefix else "")
    status, answer, log = curl(start)
    sid, session = answer["session_id"], server.sessions[-1]
    assert status == 200 and "HTTP/1.1 200" in log
    assert len(sid) <= 32 and all(letter.isalnum() or letter in "-_" for letter in sid)
    status, _, _ = curl(f"{url}/upload_raw/{sid}?filename=upload.nii.gz", form_of(IMAGE))
    assert status == 200
    name, image, properties = session.calls[0]
    np.testing.assert_array_equal(image, IMAGE[None])
    assert properties == {"spacing": [3.0, 0.5, 0.5]}
    point = "point=7&point=6&point=2" if prefix else "x=7&y=6&z=2"
    status, answer, _ = curl(f"{url}/process_point_interaction/{sid}?{point}&foreground=true")
    assert status == 200 and session.calls[-1] == ("point", [2, 6, 7], True, True)
    mask = mask_of(answer, IMAGE.shape)
    assert np.argwhere(mask).tolist() == [[2, 6, 7]] and mask.max() == 1
    drawn = np.zeros(IMAGE.shape, np.float32)
    drawn[3, 4:9, 5:8] = 1
    for kind in ("scribble", "lasso"):
        path = f"{url}/process_{kind}_interaction/{sid}"
        status, answer, _ = curl(f"{path}?foreground=true", form_of(drawn))
        assert status == 200 and mask_of(answer, IMAGE.shape).sum() == 16
        name, crop, *flags = session.calls[-1]
        assert (name, crop.shape) == (kind, (1, 5, 3)) and crop.all()
        assert flags == [True, True, [[3, 4], [4, 9], [5, 8]]]
        status, answer, _ = curl(f"{path}?foreground=false", form_of(drawn))
        assert mask_of(answer, IMAGE.shape).sum() == 1
    assert curl(f"{url}/reset_interactions/{sid}")[:2] == (200, {"status": "success"})
    assert not session.target_buffer.any()
    assert curl(f"{url}/end_session/{sid}")[0] == 200
    assert curl(f"{url}/reset_interactions/{sid}")[0] == 410


def test_large_forms_are_continued(server: Running) -> None:
    """libcurl asks before it sends more than a megabyte, and waits a second where nobody answers."""
    _, answer, _ = curl(f"{server.url}/start_session")
    image = np.random.default_rng(2).normal(size=(20, 128, 256)).astype(np.float32)
    url = f"{server.url}/upload_raw/{answer['session_id']}"
    status, _, log = curl(url, form_of(image))
    assert status == 200
    assert "Expect: 100-continue" in log and "HTTP/1.1 100 Continue" in log
    status, answer, log = curl(f"{server.url}/upload_raw/none", form_of(image))
    assert status == 410 and answer["detail"] and "HTTP/1.1 100" not in log


def test_the_key_in_the_address_is_taken() -> None:
    with running(key=KEY) as server:
        address = f"{server.host}:{server.port}"
        assert curl(f"http://{address}/status")[0] == 401
        assert curl(f"http://snap:wrong@{address}/status")[0] == 401
        for user in ("snap", "anybody"):
            assert curl(f"http://{user}:{KEY}@{address}/status")[0] == 200
        _, answer, _ = curl(f"http://snap:{KEY}@{address}/start_session")
        url = f"http://snap:{KEY}@{address}/upload_raw/{answer['session_id']}"
        assert curl(url, form_of(IMAGE))[0] == 200


BAD_POINTS = [
    "", "point=1&point=2", "x=1&y=2", "x=1.5&y=2&z=3", "x=1&y=2&z=300", "x=-1&y=2&z=3",
    "x=1e3&y=2&z=3", "x=%D9%A1&y=2&z=3", "point=1&point=2&point=3&foreground=yes",
    f"x={9 * '9'}9&y=2&z=3",
]  # fmt: skip


def test_bad_requests_are_never_a_200(server: Running) -> None:
    _, answer, _ = curl(f"{server.url}/start_session")
    sid = answer["session_id"]
    assert curl(f"{server.url}/process_point_interaction/{sid}?x=1&y=1&z=1")[0] == 400
    upload = f"{server.url}/upload_raw/{sid}"
    good = form_of(IMAGE)
    bad_forms: list[dict[str, tuple[bytes, str]]] = [
        form_of(IMAGE, components_per_pixel=3),
        form_of(IMAGE, dimensions=[30, 24]),
        form_of(IMAGE, dimensions=[30, 24, 6]),
        form_of(IMAGE, dimensions=[30, 24, 4]),
        form_of(IMAGE, dimensions=[30, 24, 0]),
        form_of(IMAGE, dimensions=[30, 24, True]),
        form_of(IMAGE, component_type="object"),
        form_of(IMAGE, component_type="complex64"),
        form_of(IMAGE, spacing=[float("nan"), 1, 1]),
        {"metadata": good["metadata"]},
        {"file": good["file"]},
        {**good, "metadata": (b"[" * 5000, "application/json")},
        {**good, "metadata": (b" " * 70_000, "application/json")},
        {**good, "file": (b"no gzip", "application/gzip")},
        {**good, "file": (good["file"][0][:-9], "application/gzip")},
        {**good, "file": (2 * good["file"][0], "application/gzip")},
        {**good, **{f"part{number}": (b"x", "text/plain") for number in range(9)}},
    ]
    for form in bad_forms:
        status, answer, _ = curl(upload, form)
        assert status == 400 and answer["detail"], form
    assert curl(upload, form_of(IMAGE, dimensions=[2**20, 2**20, 2**20]))[0] == 413
    assert not [call for call in server.sessions[-1].calls if call[0] == "set_image"]
    assert curl(upload, good)[0] == 200
    for query in BAD_POINTS:
        assert curl(f"{server.url}/process_point_interaction/{sid}?{query}")[0] == 400, query
    scribble = f"{server.url}/process_scribble_interaction/{sid}?foreground=true"
    for drawing in (np.zeros_like(IMAGE), np.full_like(IMAGE, np.nan), IMAGE[1:]):
        assert curl(scribble, form_of(drawing))[0] == 400
    assert curl(f"{server.url}/v2/start_session/another")[0] == 400
    status, headers, _ = server.ask("GET", f"/status/{sid}/")
    assert status == 404 and "location" not in headers


def test_what_is_no_form_is_refused(server: Running) -> None:
    _, answer, _ = curl(f"{server.url}/start_session")
    path = f"/upload_raw/{answer['session_id']}"
    for kind, body in {
        "text/plain": b"x",
        "multipart/form-data": b"x",
        "multipart/form-data; boundary=": b"--\r\n\r\n",
        f"multipart/form-data; boundary={'x' * 300}": b"x",
        "multipart/form-data; boundary=b": b"--b\r\n" + b"A: " + 100_000 * b"x",
        "multipart/form-data; boundary=c": b'--c\r\nContent-Disposition: form-data; name="file"\r\n\r\nx',
        "multipart/form-data; boundary=d": 2
        * b'--d\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n'
        + b"--d--\r\n",
    }.items():
        status, _, found = server.ask("POST", path, body, Content_Type=kind)
        assert status == 400 and json.loads(found)["detail"], kind
    server.leases.release(answer["session_id"])


def test_gzip_is_inflated_to_its_length_and_not_a_byte_further() -> None:
    content = np.random.default_rng(0).integers(0, 4, 1_200_000).astype(np.uint8)
    for level in (0, 1):
        packed = gzip.compress(content.tobytes(), level)
        np.testing.assert_array_equal(inflate(packed, content.size), content)
    bomb = gzip.compress(bytes(10**7), 9)
    assert len(bomb) < 10**4 + 100
    for size in (1, 10**6, 10**7 - 1, 10**7 + 1):
        with pytest.raises(InputError):
            inflate(bomb, size)
    assert not inflate(bomb, 10**7).any()
    for damaged in (b"", packed[:-1], packed[:1000], packed + b"x", packed[:-8] + bytes(8)):
        with pytest.raises(InputError):
            inflate(damaged, content.size)


def test_a_place_is_found_for_a_client_that_never_says_goodbye() -> None:
    limits = Limits(max_sessions=1, idle_s=0.2)
    with running(limits, make_session=FakeSession) as server:
        first = json.loads(server.ask("GET", "/start_session")[2])["session_id"]
        assert server.ask("GET", "/start_session")[0] == 503
        server.leases.peek(first)
        while server.ask("GET", "/start_session")[0] == 503:
            pass
        assert server.ask("GET", f"/reset_interactions/{first}")[0] == 410
