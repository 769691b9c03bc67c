"""The bar of a cohort, and what it says of the time that is left."""

from __future__ import annotations

import sys
from typing import Self

from tqdm import tqdm

from runtime.cohort.estimate import Estimate, in_words
from runtime.cohort.ledger import Counts

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} studies [{elapsed}{postfix}]"


class CohortProgress:
    """A `Watch` that draws a bar on stderr.

    Args:
        counts: how far the cohort was before.
        num_workers: that work side by side.
        is_searching: whether more studies are being found.
    """

    def __init__(self, counts: Counts, num_workers: int, is_searching: bool = False) -> None:
        self._is_searching = is_searching
        self._left, self._left_bytes = counts.waiting, counts.waiting_bytes
        self._num_workers, self._estimate = num_workers, Estimate()
        self._in_hand = self._failed = 0
        self._bar = tqdm(
            total=counts.total,
            initial=counts.total - counts.waiting,
            desc="cohort",
            file=sys.stderr,
            bar_format=FORMAT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def found(self, count: int, is_all: bool) -> None:
        """So many more wait."""
        self._left += count
        self._bar.total += count
        self._is_searching = not is_all
        self._say()

    def started(self, size_bytes: int) -> None:
        """A study was handed out."""
        self._in_hand += 1
        self._say()

    def back(self, size_bytes: int) -> None:
        """It waits again."""
        self._in_hand -= 1
        self._say()

    def ended(self, size_bytes: int, seconds: float, is_done: bool) -> None:
        """It is settled; what has failed tells nothing of how long the others take."""
        self._in_hand -= 1
        self._left -= 1
        self._left_bytes -= size_bytes
        self._failed += not is_done
        if is_done:
            self._estimate.add(size_bytes, seconds)
        self._say()
        self._bar.update()

    def _say(self) -> None:
        words = [f"{self._in_hand} in hand"]
        if self._failed:
            words.append(f"{self._failed} failed")
        span = self._estimate.seconds_left(self._left, self._left_bytes, self._num_workers)
        if self._is_searching:  # nobody knows how many are left
            words.append("searching for more")
        elif span and self._left:
            low, high = map(in_words, span)
            words.append(f"{low} to {high} left" if low != high else f"{high} left")
        self._bar.set_postfix_str(", ".join(words), refresh=False)
