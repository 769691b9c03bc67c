"""How long a cohort will still take, from what its studies have taken so far."""

from __future__ import annotations

from math import sqrt

FEWEST = 6  # studies, before anything is said: of fewer, how much they scatter is not known
CONFIDENT = 2.0  # standard deviations on each side of an estimate: about 95 %
SLOPE_SD = 0.3  # of what bytes may cost, in shares of a study's time: that of any number from 0 to 1 (uniform)


class Estimate:
    """Seconds of a study as a line over its bytes, fitted to all that are settled; studies run side by side.

    The largest studies come first, so that a mean of seconds would promise too much, and one of bytes a second too
    little: each study costs something whatever its size.
    """

    def __init__(self) -> None:
        self._n = 0
        self._x = self._y = self._xx = self._xy = self._yy = 0.0

    def add(self, size_bytes: int, seconds: float) -> None:
        """A study is settled."""
        x = float(size_bytes)
        self._n += 1
        self._x += x
        self._y += seconds
        self._xx += x * x
        self._xy += x * seconds
        self._yy += seconds * seconds

    @property
    def line(self) -> tuple[float, float, float, float]:
        """Seconds of a study without bytes, and for each byte; how far single studies lie off (one sd); the variance
        of bytes that stands for what is known of the slope.

        Studies of about one size say little of what bytes cost. That is something from nothing to all of a study's
        time, which counts as far as `SLOPE_SD` says: where studies tell, it is the line of least squares.
        """
        n, x, y = self._n, self._x / self._n, self._y / self._n
        var, cov = max(self._xx / n - x * x, 0.0), self._xy / n - x * y
        most = (
            y / x if x else 0.0
        )  # of the slope: more would leave less than nothing for a study without bytes
        alone = cov / var if var else most / 2
        off = self._scatter(y - alone * x, alone)
        held = off * off / (n * (SLOPE_SD * most) ** 2) if most else 0.0
        known = var + held
        slope = min(max((cov + held * most / 2) / known, 0.0), most) if known else most / 2
        base = max(y - slope * x, 0.0)
        return base, slope, self._scatter(base, slope), known

    def _scatter(self, base: float, slope: float) -> float:
        """How far studies lie off a line, one sd."""
        n, x, y = self._n, self._x / self._n, self._y / self._n
        rest = self._yy / n - 2 * (base * y + slope * self._xy / n)
        rest += base * base + 2 * base * slope * x + slope * slope * self._xx / n
        return sqrt(max(rest, 0.0) * n / max(n - 2, 1))

    def seconds_left(
        self, num_left: int, bytes_left: int, num_workers: int
    ) -> tuple[float, float] | None:
        """From and to, that many studies of so many bytes in all take on so many workers; None before anybody knows.

        It errs by what single studies scatter, and by how little is known yet of the line's height and slope.
        """
        if self._n < FEWEST:
            return None
        base, slope, scatter, known = self.line
        middle = base * num_left + slope * bytes_left
        aside = bytes_left - num_left * self._x / self._n
        slanted = aside**2 / known if known else 0.0
        off = scatter * sqrt(num_left + (num_left**2 + slanted) / self._n)
        workers = max(min(num_workers, num_left), 1)
        return (
            max(middle - CONFIDENT * off, 0.0) / workers,
            (middle + CONFIDENT * off) / workers,
        )


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
