"""A Ray that does not start, and a cluster that is not there."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from runtime.cohort.ray_cluster import ray_cluster
from runtime.errors import BackendUnavailable


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "could not be started on this machine: timed out. Give the same command again"),
        ("10.0.0.1:6379", "no Ray cluster at 10.0.0.1:6379: timed out.; start one"),
    ],
)
@pytest.mark.parametrize("kind", [Exception, ConnectionError])
def test_what_ray_raises_is_told_in_a_sentence(
    address: str | None, said: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray.init` raises Exception itself where its own processes are too slow to start."""

    def init(**_: object) -> None:
        raise kind("timed out.")

    ended: list[bool] = []
    ray = SimpleNamespace(init=init, shutdown=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(os, "environ", {**os.environ})
    with pytest.raises(BackendUnavailable, match=said), ray_cluster(address, 1, 0):
        pytest.fail("work began")
    assert ended
