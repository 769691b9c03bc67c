"""Viewers and the embedded model: what comes back is the object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nnInteractive.inference.remote.remote_session import (
    nnInteractiveRemoteInferenceSession as Client,
)
from numpy.typing import NDArray

from runtime.measure.phantom import make_phantom
from tests.runtime.serve.fakes import Running
from tests.runtime.serve.real import LICENCE, serving
from tests.runtime.serve.test_itksnap import curl, form_of, mask_of

SHAPE, MIDDLE = (5, 160, 160), 2
PHANTOMS = [make_phantom(SHAPE, seed) for seed in (0, 1)]
pytestmark = pytest.mark.filterwarnings("ignore:HTTPPOST:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as found:
        yield found


def dice(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    both = np.logical_and(one, other).sum()
    return float(2 * both / max(1, np.count_nonzero(one) + np.count_nonzero(other)))


def box_of(number: int, object_id: int) -> list[list[int]]:
    box = PHANTOMS[number].box(MIDDLE, object_id)
    return [[MIDDLE, MIDDLE + 1], [*box.y], [*box.x]]


def prompted(client: Client, number: int, object_id: int) -> NDArray[np.uint8]:
    """What a viewer shows after a box on the middle slice."""
    phantom = PHANTOMS[number]
    client.set_image(phantom.pixels[None].astype(np.int16) - 100, {"spacing": [3.0, 1.0, 1.0]})
    mask = np.zeros(SHAPE, np.uint8)
    client.set_target_buffer(mask)
    client.set_do_autozoom(False)
    assert client.add_bbox_interaction(box_of(number, object_id), True) is not None
    return mask


def truth(number: int, object_id: int) -> NDArray[np.bool_]:
    return PHANTOMS[number].labels == object_id


def test_a_session_of_slicers(server: Running) -> None:
    with Client(server.url) as client:
        assert client.supports_undo and client.license == LICENCE
        mask = prompted(client, 0, 1)
        assert dice(mask[MIDDLE], truth(0, 1)[MIDDLE]) > 0.8
        assert mask[MIDDLE - 1].any() and mask[MIDDLE + 1].any()  # it went both ways
        # Another segment: reset, then its own box.
        first = mask.copy()
        client.reset_interactions()
        assert not mask.any()
        client.add_bbox_interaction(box_of(0, 2), True)
        assert dice(mask[MIDDLE], truth(0, 2)[MIDDLE]) > 0.8
        # Back to the first: its mask is the seed, and a box on it can be undone.
        client.reset_interactions()
        client.add_initial_seg_interaction(first, run_prediction=False)
        client.add_bbox_interaction(box_of(0, 2), True)
        assert client.undo()
        np.testing.assert_array_equal(mask, first)


def test_a_session_of_naparis(server: Running) -> None:
    with Client(server.url) as client:
        client.set_image(PHANTOMS[0].pixels[None, MIDDLE : MIDDLE + 1].astype(np.float32))
        mask = np.zeros((1, *SHAPE[1:]), np.uint8)
        client.set_target_buffer(mask)
        _, y, x = box_of(0, 1)
        box = [[-0.4, 0.6], [y[0] + 0.3, y[1] - 0.4], [x[0] - 0.2, x[1] + 0.1]]
        client.add_bbox_interaction(box, True, run_prediction=False)
        assert not mask.any()
        assert client._predict() is not None
        assert dice(mask[0], truth(0, 1)[MIDDLE]) > 0.8
        assert client.undo() and not mask.any()


def test_two_viewers_at_once(server: Running) -> None:
    def use(number: int) -> float:
        with Client(server.url) as client:
            mask = prompted(client, number, 1)
            assert client.heartbeat() > 0
            return dice(mask[MIDDLE], truth(number, 1)[MIDDLE])

    with ThreadPoolExecutor(2) as threads:
        assert min(threads.map(use, (0, 1))) > 0.8


def test_a_session_of_itksnaps(server: Running) -> None:
    _, answer, _ = curl(f"{server.url}/v2/start_session/medsam2")
    sid = answer["session_id"]
    image = PHANTOMS[0].pixels.astype(np.float32)
    assert (
        curl(f"{server.url}/v2/upload_raw/{sid}?filename=upload.nii.gz", form_of(image))[0] == 200
    )
    drawn = np.zeros(SHAPE, np.float32)
    drawn[MIDDLE] = truth(0, 1)[MIDDLE]
    url = f"{server.url}/process_lasso_interaction/{sid}?foreground=true"
    status, answer, _ = curl(url, form_of(drawn))
    assert status == 200
    assert dice(mask_of(answer, SHAPE)[MIDDLE], truth(0, 1)[MIDDLE]) > 0.8
    z, y, x = np.argwhere(truth(0, 2) & (np.arange(SHAPE[0]) == MIDDLE)[:, None, None]).mean(0)
    url = f"{server.url}/v2/reset_interactions/{sid}"
    assert curl(url)[0] == 200
    point = f"point={x:.0f}&point={y:.0f}&point={z:.0f}&foreground=true"
    status, answer, _ = curl(f"{server.url}/v2/process_point_interaction/{sid}?{point}")
    assert status == 200 and mask_of(answer, SHAPE)[MIDDLE].any()
    assert curl(f"{server.url}/v2/end_session/{sid}")[0] == 200


def test_bad_prompts_are_refused_and_no_step_of_undo(server: Running) -> None:
    token = server.claim()

    def status(path: str, body: object) -> int:
        return server.ask("POST", path, json.dumps(body).encode(), X_Lease_Token=token)[0]

    assert status("/add_point_interaction", {"coordinates": [1, 1, 1]}) == 400
    with Client(server.url) as client:
        mask = prompted(client, 0, 1)
        before = mask.copy()
        body = json.dumps({"coordinates": [1, 1, SHAPE[2]]}).encode()
        headers = {"X_Lease_Token": client._lease_token}
        assert server.ask("POST", "/add_point_interaction", body, **headers)[0] == 400
        np.testing.assert_array_equal(mask, before)
        assert client.undo() and not mask.any() and not client.undo()
    server.leases.release(token)
