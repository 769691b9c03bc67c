"""Processes that share a step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.training.ranks import ALONE, Rank, share
from runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what starts processes


def parameters() -> list[torch.nn.Parameter]:
    """Two that are trained, the second in the first rank alone, and one that is not."""
    two = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    return [*two, torch.nn.Parameter(torch.ones(5), requires_grad=False)]


def meet(folder: Path, rank: Rank) -> None:
    """Each rank's gradients are its number and one; what it has afterwards is written down."""
    wide, narrow, frozen = parameters()
    wide.grad = torch.full_like(wide, rank.number + 1.0)
    if rank.is_first:
        narrow.grad = torch.full_like(narrow, 8.0)
    rank.average_gradients([wide, narrow, frozen])
    assert frozen.grad is None
    sums = rank.add({"loss": 2.0, f"rank{rank.number}": 1.0}, ("loss", "rank1", "none"))
    seen = {"wide": wide.grad, "narrow": narrow.grad, "agreed": rank.agree(rank.number + 0.25)}
    torch.save({**seen, **sums}, folder / f"{rank.number}.pt")


def fail(rank: Rank) -> None:
    if rank.is_first:
        raise InputError("the first one fails")
    rank.agree(0.0)


def go_on(folder: Path, rank: Rank) -> None:
    (folder / str(rank.number)).write_text(str(os.getpid()))
    time.sleep(120)


def interrupt_once_both_work(folder: Path) -> None:
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    thread = threading.Thread(target=interrupt_once_both_work, args=(tmp_path,), daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        share(2, partial(go_on, tmp_path))
    assert not multiprocessing.active_children()
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_all_move_by_the_mean(tmp_path: Path) -> None:
    share(2, partial(meet, tmp_path))
    for number in range(2):
        seen = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert torch.equal(seen["wide"], torch.full((2, 3), 1.5))
        assert torch.equal(seen["narrow"], torch.full((4,), 4.0))
        assert seen["agreed"] == 0.25
        assert (seen["loss"], seen["rank1"], seen["none"]) == (4.0, 1.0, 0.0)


def test_one_alone_keeps_what_it_has(tmp_path: Path) -> None:
    share(1, partial(meet, tmp_path))
    seen = torch.load(tmp_path / "0.pt", weights_only=True)
    assert torch.equal(seen["wide"], torch.ones(2, 3))
    assert (seen["loss"], seen["rank1"], seen["agreed"]) == (2.0, 0.0, 0.25)
    wide, narrow, _ = parameters()
    ALONE.average_gradients([wide, narrow])
    assert wide.grad is None


def test_where_one_fails_all_end_with_its_error() -> None:
    with pytest.raises(InputError, match="the first one fails") as caught:
        share(2, fail)
    assert any("in fail" in note for note in caught.value.__notes__)
