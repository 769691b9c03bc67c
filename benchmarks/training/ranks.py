"""Processes that share a step: each takes the gradient of its own batch, and all move by the mean.

On a CPU two processes of one thread do more than one of two, whose threads wait for each other at every operation.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

END_S = 5.0  # until an interrupted process has put its files away
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
"""By system: all are on one machine, and nobody else is to reach them."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the processes, numbered from 0; the first one alone writes."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process logs and saves."""
        return self.number == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes; one that a process lacks counts as 0."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        sizes = [p.numel() for p in trained]
        for p, mean in zip(trained, (flat / self.count).split(sizes), strict=True):
            p.grad = mean.view_as(p)

    def agree(self, value: float) -> float:
        """The first process's number."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(told, 0)
        return float(told)

    def add(self, sums: dict[str, float], keys: Iterable[str]) -> dict[str, float]:
        """Sums over all processes; 0 where none has a key."""
        keys = list(keys)
        total = torch.tensor([sums.get(key, 0.0) for key in keys], dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(total)
        return dict(zip(keys, total.tolist(), strict=True))


ALONE = Rank()


def share(count: int, work: Callable[[Rank], None]) -> None:
    """Do the work in so many processes, of which one is this one if it is the only one.

    Where one of them fails, the others are ended and its error is raised, with its traceback as a note. They are ended,
    too, where this process is interrupted.
    """
    if count == 1:
        work(ALONE)
        return
    errors = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="medsam2-ranks-") as folder:
        meeting = str(Path(folder) / "meeting")
        ranks = mp.spawn(_begin, (count, meeting, work, errors), nprocs=count, join=False)
        try:
            while not ranks.join():
                pass
        except (mp.ProcessRaisedException, mp.ProcessExitedException):
            if errors.empty():  # it was ended from outside
                raise
            raise errors.get() from None
        finally:
            _end(ranks.processes)


def _end(processes: Iterable[mp.Process]) -> None:
    """Interrupt processes that go on, so that no unfinished file is left, and end those that do not hear it."""
    going = [process for process in processes if process.pid and process.is_alive()]
    for process in going:
        os.kill(process.pid, signal.SIGINT)
    for process in going:
        process.join(END_S)
        if process.is_alive():  # it waits for others, or ignores interrupts as `nohup` has it
            process.terminate()
            process.join()


def _begin(
    number: int,
    count: int,
    meeting: str,
    work: Callable[[Rank], None],
    errors: SimpleQueue[Exception],
) -> None:
    torch.set_num_threads(1)
    if interface := LOOPBACK.get(sys.platform):
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=count)
    try:
        work(Rank(number, count))
    except Exception as error:
        error.add_note(traceback.format_exc())
        errors.put(error)  # before others fail for want of this one
        raise
    finally:
        dist.destroy_process_group()
