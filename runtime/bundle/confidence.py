"""How sure a mask is: what the network says, what its pixels say, and what either has been worth on labelled data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.tensors import LowResMask

EDGE = 1e-4  # keeps logits of 0 and 1 finite
SMALLEST_GAP = 1e-100  # between knots; a step over less has a slope that is infinite
LIMIT = 60.0  # of a logit; beyond it a probability is 0 or 1


def predicted_iou(logits: NDArray[np.float32], iou: float) -> float:
    """`iou`: the network's own estimate of its mask's overlap with the truth."""
    return iou


def foreground_probability(logits: NDArray[np.float32], iou: float) -> float:
    """`foreground`: mean probability of the pixels inside the mask, 0 if there is none."""
    inside = logits[logits > 0]
    return float((1 / (1 + np.exp(-inside))).mean()) if inside.size else 0.0


Measure = Callable[[NDArray[np.float32], float], float]
MEASURES: dict[str, Measure] = {"iou": predicted_iou, "foreground": foreground_probability}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone map of a measure to the overlap that it was worth on labelled data.

    Exactly one of both is given.

    Attributes:
        temperature: divides the logit of the measure.
        knots: measures and overlaps, both ascending, joined by straight lines (isotonic regression).
    """

    temperature: float | None = None
    knots: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __call__(self, value: float) -> float:
        if self.knots is not None:
            return float(np.interp(value, *self.knots))
        assert self.temperature is not None
        p = min(max(value, EDGE), 1 - EDGE)
        logit = float(np.log(p / (1 - p))) / self.temperature
        return float(1 / (1 + np.exp(-np.clip(logit, -LIMIT, LIMIT))))

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Calibration:
        """Read a manifest's entry; ValueError, KeyError or TypeError if it is none."""
        if "temperature" in entry:
            temperature = float(entry["temperature"])
            if not 0 < temperature < np.inf:
                raise ValueError(f"a temperature of {temperature:g}")
            return cls(temperature=temperature)
        measured, worth = (
            tuple(float(v) for v in list(entry[key])) for key in ("measured", "worth")
        )
        is_map = len(measured) == len(worth) > 0 and np.isfinite([*measured, *worth]).all()
        if not is_map or list(measured) != sorted(measured) or list(worth) != sorted(worth):
            raise ValueError("a calibration that does not ascend")
        gaps = np.diff(measured)
        if ((gaps > 0) & (gaps < SMALLEST_GAP)).any():
            raise ValueError("a calibration whose steps are too steep to compute with")
        if worth[0] < 0 or worth[-1] > 1:
            raise ValueError(f"overlaps from {worth[0]:g} to {worth[-1]:g}")
        return cls(knots=(measured, worth))

    def entry(self) -> dict[str, Any]:
        """The entry for a manifest."""
        if self.knots is None:
            return {"temperature": self.temperature}
        return {"measured": list(self.knots[0]), "worth": list(self.knots[1])}


@dataclass(frozen=True, slots=True)
class Confidence:
    """A measure, calibrated if the bundle knows how."""

    measure: Measure = predicted_iou
    calibration: Calibration | None = None

    def __call__(self, mask: LowResMask | NDArray[np.float32], iou: float) -> float:
        """Confidence in a mask that is there, of its low-resolution logits and predicted iou.

        Logits that have not been read back yet are only waited for by a measure that looks at them.
        """
        if self.measure is predicted_iou:
            value = iou
        else:
            value = self.measure(mask.filled if isinstance(mask, LowResMask) else mask, iou)
        return value if self.calibration is None else self.calibration(value)
