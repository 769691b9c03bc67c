"""Runs by number, so that a cancel ends those that there are and none that is still to come; one thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import wraps
from threading import Lock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from runtime.predictors.stop import StopRule


@dataclass(slots=True, eq=False)
class Run:
    """One walk of a predictor over its slices.

    Attributes:
        number: of this run; later ones have larger numbers.
        stop: when it follows an object no further; None follows each through all that is planned.
        is_complete: everything that was planned has been handed out.
        has_gaps: slices were left out, because their object was reset or its prompts were taken back meanwhile.
    """

    number: int
    _runs: Runs
    stop: StopRule | None = None
    is_complete: bool = False
    has_gaps: bool = False

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has asked for its end since it was made."""
        return self.number <= self._runs.cancelled


@dataclass(slots=True, eq=False)
class Runs:
    """All runs of one predictor.

    `cancel` takes no lock: it may be called from any thread, also from a signal handler that interrupts `make`.
    """

    latest: int = 0
    cancelled: int = 0
    _lock: Lock = field(default_factory=Lock)

    def make(self, stop: StopRule | None = None) -> Run:
        """A new run, which only a later `cancel` ends."""
        with self._lock:
            self.latest += 1
            return Run(self.latest, self, stop)

    def cancel(self) -> None:
        """End all runs made so far; those that have ended already are as they were."""
        self.cancelled = self.latest


P = ParamSpec("P")
T = TypeVar("T")


class Locked(Protocol):
    """What one thread at a time may be in."""

    lock: AbstractContextManager[object]


Owner = TypeVar("Owner", bound=Locked)


def alone(
    method: Callable[Concatenate[Owner, P], T],
) -> Callable[Concatenate[Owner, P], T]:
    """A method that no other thread is in, nor in another such method of its owner, while it is under way."""

    @wraps(method)
    def locked(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with owner.lock:
            return method(owner, *args, **kwargs)

    return locked


def each_alone(owner: Locked, items: Iterator[T]) -> Iterator[T]:
    """Items, each made while no other thread is in one of the owner's methods; between them others may be."""
    while True:
        with owner.lock:
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
