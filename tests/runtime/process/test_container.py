"""Limits of containers, from files as Linux' control groups of both versions have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from runtime import backends
from runtime.backends import open_backend
from runtime.bundle.bundle import open_bundle
from runtime.commands.cohort import _num_cores, parser
from runtime.devices import machine
from runtime.process import container
from runtime.process.container import memory_limit_bytes, processor_limit, thread_limit

UNLIMITED_V1 = "9223372036854771712"  # what it says where nobody has limited anything
V1 = "12:memory:{0}\n5:cpu,cpuacct:{0}\n1:name=systemd:{0}\n0::/\n"
GIB = 2**30

Tells = Callable[[str, Mapping[str, str]], None]


@pytest.fixture
def tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tells:
    """Writes the groups that this process is in, and files of groups."""

    def write(memberships: str, files: Mapping[str, str]) -> None:
        (tmp_path / "memberships").write_text(memberships)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(container, "MEMBERSHIPS", tmp_path / "memberships")
    monkeypatch.setattr(container, "GROUPS", tmp_path / "groups")
    return write


@pytest.mark.parametrize(
    ("memberships", "files", "processors", "memory"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, None, id="docker"),
        pytest.param("0::/\n", {"memory.max": "2147483648\n"}, None, 2 * GIB, id="docker memory"),
        pytest.param(
            "0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None, id="unlimited"
        ),
        pytest.param(
            "0::/kube/pod/box\n",
            {
                "kube/pod/box/cpu.max": "max 100000",
                "kube/pod/cpu.max": "300000 100000",
                "kube/cpu.max": "6400000 100000",
                "kube/pod/box/memory.max": str(GIB),
                "kube/memory.max": str(3 * GIB),
            },
            3.0,
            GIB,
            id="the tightest of all above it",
        ),
        pytest.param(
            "0::/../../elsewhere\n",
            {"cpu.max": "50000 100000", "elsewhere/cpu.max": "10000 100000"},
            0.5,
            None,
            id="a path that leads out",
        ),
        pytest.param(
            V1.format("/docker/1f"),
            {
                "cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
                "memory/docker/1f/memory.limit_in_bytes": f"{GIB}\n",
                "memory/memory.limit_in_bytes": UNLIMITED_V1,
            },
            2.0,
            GIB,
            id="version 1",
        ),
        pytest.param(
            V1.format("/docker/1f"),
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            0.5,
            None,
            id="version 1, mounted as the container's root, by one name",
        ),
        pytest.param(
            V1.format("/"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            None,
            None,
            id="version 1, unlimited",
        ),
        pytest.param(
            "0::/a\n1:name=systemd:/\n", {"unified/a/cpu.max": "100000 50000"}, 2.0, None, id="both"
        ),
        pytest.param("0::/\n", {}, None, None, id="no files"),
        pytest.param("0::/\n", {"cpu.max": "", "memory.max": "\n"}, None, None, id="empty files"),
        pytest.param(
            "0::/\n", {"cpu.max": "a b c", "memory.max": "-5"}, None, None, id="other words"
        ),
        pytest.param(
            "0::/\n", {"cpu.max": "--5 1", "memory.max": "9" * 5000}, None, None, id="no numbers"
        ),
        pytest.param("0::/\n", {"cpu.max": "100000 0"}, None, None, id="no period"),
        pytest.param("nonsense\n\n::\n", {}, None, None, id="no memberships"),
    ],
)
def test_limits_are_read(
    memberships: str,
    files: dict[str, str],
    processors: float | None,
    memory: int | None,
    tells: Tells,
) -> None:
    tells(memberships, files)
    assert processor_limit() == processors
    assert memory_limit_bytes() == memory


@pytest.mark.parametrize(
    ("memberships", "files", "limit"),
    [
        ("0::/\n", {"pids.max": "100\n"}, 100),
        ("0::/a/b\n", {"a/b/pids.max": "max\n", "a/pids.max": "64\n"}, 64),
        ("3:pids:/docker/1f\n", {"pids/docker/1f/pids.max": "20\n"}, 20),
        ("0::/\n", {"pids.max": "max\n"}, None),
        ("0::/\n", {}, None),
    ],
    ids=["docker", "above it", "version 1", "unlimited", "no files"],
)
def test_so_many_threads_are_left(
    memberships: str, files: dict[str, str], limit: int | None, tells: Tells
) -> None:
    tells(memberships, files)
    assert thread_limit() == limit


def test_other_systems_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MEMBERSHIPS", tmp_path / "absent")
    assert processor_limit() is None and memory_limit_bytes() is None and thread_limit() is None


@pytest.mark.parametrize(
    ("limit", "cores"), [("50000", 1), ("100000", 1), ("250000", 2), ("800000", 8), ("max", 8)]
)
def test_no_more_cores_are_used_than_there_is_time_for(
    limit: str, cores: int, tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells("0::/\n", {"cpu.max": f"{limit} 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert machine.logical_cores() == cores
    assert machine.physical_cores() <= cores
    assert machine.cores_given() == (None if cores == 8 else machine.physical_cores())
    assert f", {cores} core{'s' * (cores > 1)}, " in machine.machine_name()
    assert _num_cores(parser().parse_args(["-i", "a", "-o", "b"])) == cores


@pytest.mark.parametrize(("own", "given"), [(1, 1), (3, 3), (4, None)])
def test_no_more_cores_are_used_than_a_process_may_run_on(
    own: int, given: int | None, tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells("0::/\n", {"cpu.max": "max 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(own)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "physical_cores", lambda: own)
    assert machine.cores_given() == given


@pytest.mark.parametrize(("name", "asked", "given"), [("ort", None, 2), ("ort", 3, 3)])
def test_engines_have_as_many_threads_as_this_process_has_cores(
    name: str, asked: int | None, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "cores_given", lambda: 2)
    assert f"{given} threads" in open_backend(name, open_bundle(), asked).description


def test_encodings_take_a_share_of_what_the_container_has(
    tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 2**19 if name == "SC_PHYS_PAGES" else 4096)
    tells("0::/\n", {"memory.max": str(GIB)})
    assert machine.memory_bytes() == GIB
    tells("0::/\n", {"memory.max": "max"})
    assert machine.memory_bytes() == 2 * GIB
