"""Ray as it is started and left: one of our own on this machine, or a cluster that is there."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import BackendUnavailable
from runtime.files.cache import is_this_users

STORE_BYTES = (
    100 << 20
)  # of Ray's object store, which refuses less than 75 MiB: what goes through it here is small
LONGEST_FOLDER = 40  # characters: Ray puts sockets below, whose names the system limits to 107
FOLDER = "medsam2-ray-"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_cluster(address: str | None, num_cpus: int, num_gpus: int | None) -> Iterator[Any]:
    """The module `ray`, connected; it is left, and what was started for it ended, in any case.

    Args:
        address: of a cluster, or "auto" for that of this machine; None starts one here, which listens to who has a
            token of this run alone, writes into a temporary folder and is ended with this process.
        num_cpus, num_gpus: of the one that is started; None for the GPUs that Ray finds.

    Raises BackendUnavailable where there is no cluster.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # Ray's ports are open to the network, and whoever reaches them may run anything.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    folder = None if address else _own_folder()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _connect(ray, address, num_cpus, num_gpus, folder)
        for number, handler in handlers.items():  # Ray puts one of its own in their place
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _own_folder() -> str:
    """A new temporary folder; those of processes that were killed before they could remove theirs go."""
    parent = Path(tempfile.gettempdir())
    for path in parent.glob(f"{FOLDER}*-*"):
        number = path.name.removeprefix(FOLDER).partition("-")[0]
        if number.isdigit() and not _lives(int(number)) and is_this_users(path.lstat()):
            shutil.rmtree(path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _connect(
    ray: Any, address: str | None, num_cpus: int, num_gpus: int | None, folder: str | None
) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
            return
        short = folder if folder and len(folder) <= LONGEST_FOLDER else None
        ray.init(
            address="local",  # whatever RAY_ADDRESS says
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=short,
            **quiet,
        )
    except Exception as error:  # Ray raises Exception itself where its processes come too late
        if address:
            raise BackendUnavailable(
                f"no Ray cluster at {address}: {error}; start one (ray start --head), or leave --address out"
            ) from error
        raise BackendUnavailable(
            f"Ray could not be started on this machine: {error} Give the same command again once the machine is less "
            "busy, or see that it has memory and room for temporary files"
        ) from error
