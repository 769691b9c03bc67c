"""What a container leaves of its machine: processors' time, memory and threads, as Linux' control groups limit them.

Both versions are read (docs.kernel.org/admin-guide/cgroup-v1, cgroup-v2.rst), of the process's own group and of all
above it. Elsewhere, and where nothing can be read, nothing is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
_WHOLE = re.compile(r"-?[0-9]{1,20}")


def processor_limit() -> float | None:
    """How many processors' time this process may take, such as 1.5 of `docker run --cpus=1.5`; None for all."""
    limits = []
    for group in _groups("cpu"):
        quota, period = _words(group / "cpu.max", 2)
        if quota is None:
            (quota,), (period,) = (
                _words(group / f"cpu.cfs_{name}_us", 1) for name in ("quota", "period")
            )
        if quota and period and min(quota, period) > 0:
            limits.append(quota / period)
    return min(limits, default=None)


def memory_limit_bytes() -> int | None:
    """How much memory this process may take, such as 2**31 of `docker run --memory=2g`; None for all."""
    limits = []
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            (limit,) = _words(group / name, 1)
            if limit and limit > 0:
                limits.append(limit)
    return min(limits, default=None)


def thread_limit() -> int | None:
    """How many processes and threads there may be, as 100 of `docker run --pids-limit=100`; None for any number."""
    limits = [limit for group in _groups("pids") for limit in _words(group / "pids.max", 1)]
    return min((limit for limit in limits if limit and limit > 0), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in for a controller, its own first."""
    try:
        memberships = MEMBERSHIPS.read_text().splitlines()
    except (OSError, ValueError):
        return
    for membership in memberships:
        _, _, rest = membership.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        inner = PurePosixPath(path.lstrip("/"))
        # A container may see its group as the root, or by a path that leads out of what is mounted there.
        steps = [] if ".." in inner.parts else [inner, *inner.parents]
        for mount in (GROUPS / names, GROUPS / (controller if names else "unified")):
            yield from dict.fromkeys([*(mount / step for step in steps), mount])


def _words(path: Path, count: int) -> list[int | None]:
    """Whole numbers in a file; None for each that is another word, or is not there."""
    try:
        words = path.read_text().split()[:count]
    except (OSError, ValueError):
        words = []
    numbers = [int(word) if _WHOLE.fullmatch(word) else None for word in words]
    return numbers + [None] * (count - len(numbers))
