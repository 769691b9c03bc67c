"""Intensities to the eight bits the networks were trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.window import stretch
from runtime.errors import InputError
from runtime.io.volumes.volume import Volume

# Name -> (width, level) in Hounsfield units. The first four are those of MedSAM2's 3D Slicer
# plugin; bone is the usual radiological setting.
CT_PRESETS = {
    "abdomen": (400.0, 40.0),
    "lung": (1500.0, -600.0),
    "brain": (80.0, 40.0),
    "mediastinum": (350.0, 50.0),
    "bone": (1800.0, 400.0),
}
# Percent of the voxels above zero, as in MedSAM's preprocessing of MR.
PERCENTILES = (0.5, 99.5)
# A volume of unknown modality that reaches down to here holds air in Hounsfield units.
AIR_HU = -900.0
# Fat lies at -150 to -50 HU, water at 0, soft tissue and blood up to 100, with contrast up to 300: most of a body
# without its air. Magnitudes of MR have no negative values, but for a few that resampling makes.
FAT_HU, TISSUE_HU = -50.0, (-200.0, 300.0)
MIN_NEGATIVE = 0.01  # share of the voxels
# Between lung and fat lies next to nothing of a body, unlike of a phase, which is spread evenly.
GAP_HU, MAX_GAP = (-200.0, -150.0), 0.05
SAMPLES = 2**20  # voxels that are looked at in order to tell what a volume is


@dataclass(frozen=True, slots=True)
class Window:
    """A mapping of intensities to 0..255.

    Attributes:
        kind: as asked for: a CT preset, "LEVEL/WIDTH", "percentile", "none" or "auto".
        lower, upper: intensities are clipped to these; None while they depend on the volume.
    """

    kind: str
    lower: float | None = None
    upper: float | None = None

    @property
    def describe(self) -> str:
        """The window in words, for logs and reports."""
        if self.kind == "none":
            return "none (8-bit already)"
        if self.lower is None or self.upper is None:
            return self.kind
        return f"{self.kind} ({self.lower:g} to {self.upper:g})"


def parse_window(text: str) -> Window:
    """The window that `text` names: a preset, "LEVEL/WIDTH" ("40/400"), or what Window.kind lists.

    Raises InputError for any other text and for a width that is not positive.
    """
    name = text.strip().lower()
    if name in ("auto", "percentile", "none"):
        return Window(name)
    if name in CT_PRESETS:
        return _level_window(name, *CT_PRESETS[name])
    level_text, _, width_text = name.partition("/")
    try:
        level, width = float(level_text), float(width_text)
    except ValueError as error:
        raise InputError(
            f"found the window {text!r}; wanted one of {', '.join(CT_PRESETS)}, percentile, none, "
            "auto, or LEVEL/WIDTH such as 40/400"
        ) from error
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise InputError(f"found the window {text!r}; wanted LEVEL/WIDTH with a width above zero")
    return _level_window(name, width, level)


def apply_window(volume: Volume, window: str | Window = "auto") -> tuple[NDArray[np.uint8], Window]:
    """The volume as (z, y, x) uint8, and the window that was used (never "auto").

    CT windows follow MedSAM2 (medsam2_infer_3D_CT.py): clip, stretch the clipped volume's own
    minimum and maximum over 0..255 in float64, drop the fraction. "percentile" clips to
    PERCENTILES of the voxels above zero and keeps voxels of exactly zero at zero. "none" gives the
    array itself. "auto" is none for uint8, abdomen for CT or when a volume of unknown modality
    reaches down to air, else percentile; where that leaves next to no difference, as of zeros and
    ones, it is LEVEL/WIDTH from the lowest to the highest value. NaN counts as the lowest value; a
    constant volume becomes zero. Raises InputError for "none" on anything but uint8, and for what
    is no window.
    """
    if isinstance(window, str):
        window = parse_window(window)
    if not isinstance(window, Window):
        raise InputError(
            f"found the window {window!r}; wanted a name, or LEVEL/WIDTH such as '40/400'"
        )
    if window.kind == "auto":
        mapped, window = apply_window(volume, _automatic(volume))
        if int(mapped.max()) - int(mapped.min()) > 1 or (widest := _widest(volume)) is None:
            return mapped, window
        del mapped
        return apply_window(volume, widest)
    if window.kind == "none":
        return _already_8_bit(volume), window
    if window.kind == "percentile":
        lower, upper = _percentile_bounds(volume.array)
        window = replace(window, lower=lower, upper=upper)
    if window.lower is None or window.upper is None:
        raise InputError(f"found the window {window}; wanted one from parse_window")
    keep_zero = window.kind == "percentile"
    return _stretch(volume.array, window.lower, window.upper, keep_zero), window


def looks_like_ct(volume: Volume) -> bool:
    """Whether a volume of unknown modality that does not reach down to air looks like Hounsfield units even so."""
    if volume.modality is not None:
        return False
    values = _sample(volume.array)
    values = values[values != 0]  # what was masked out
    if values.size == 0 or (lowest := values.min()) > FAT_HU:
        return False
    inner = values[values > lowest]  # at the lowest may lie what was clipped
    in_gap = (inner > GAP_HU[0]) & (inner < GAP_HU[1])
    is_tissue = (values > TISSUE_HU[0]) & (values < TISSUE_HU[1])
    return bool(
        (values < 0).mean() >= MIN_NEGATIVE
        and is_tissue.mean() > 0.5
        and inner.size
        and in_gap.mean() < MAX_GAP
    )


def looks_unlike_ct(volume: Volume) -> bool:
    """Whether a volume is MR, or, its modality unknown, denser than any body would be in Hounsfield units."""
    if volume.modality is not None:
        return volume.modality == "MR"
    values = _sample(volume.array)
    values = values[values > AIR_HU]
    return bool(values.size and (values > TISSUE_HU[1]).mean() > 0.5)


def _sample(array: NDArray[Any]) -> NDArray[np.float64]:
    """Finite values from all over an array (z, y, x)."""
    step = max(1, round((array.size / SAMPLES) ** (1 / 3)))
    values = array[::step, ::step, ::step].astype(np.float64).ravel()
    return values[np.isfinite(values)]


def _level_window(kind: str, width: float, level: float) -> Window:
    return Window(kind, level - width / 2, level + width / 2)


def _automatic(volume: Volume) -> str:
    if volume.array.dtype == np.uint8:
        return "none"
    if volume.modality == "CT":
        return "abdomen"
    if volume.modality is None and extremes(volume.array)[0] <= AIR_HU:
        return "abdomen"
    return "percentile"


def _widest(volume: Volume) -> Window | None:
    """From the lowest to the highest number, infinity aside; None where there is but one."""
    low, high = extremes(volume.array, np.isfinite)
    width = high - low
    if not (width > 0 and math.isfinite(width)):
        return None
    return parse_window(f"{low + width / 2}/{width}")


def _already_8_bit(volume: Volume) -> NDArray[np.uint8]:
    if volume.array.dtype != np.uint8:
        raise InputError(
            f"{volume.source}: found {volume.array.dtype} voxels for the window none; wanted "
            "uint8; choose another window, for instance auto"
        )
    return volume.array


def extremes(
    array: NDArray[Any], counts: Callable[[Any], Any] = lambda values: ~np.isnan(values)
) -> tuple[float, float]:
    """Smallest and largest of the values that count, as all integers do; (0, 0) when none does."""
    lows, highs = [], []
    for plane in array:
        numbers = plane[counts(plane)] if array.dtype.kind == "f" else plane
        if numbers.size:
            lows.append(float(numbers.min()))
            highs.append(float(numbers.max()))
    return min(lows, default=0.0), max(highs, default=0.0)


def _percentile_bounds(array: NDArray[Any]) -> tuple[float, float]:
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return _counted_percentiles(array)
    numbers = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, np.bool_)
    positive = numbers & (array > 0)
    sample = array[positive if positive.any() else numbers]
    if sample.size == 0:
        return 0.0, 0.0
    if sample.dtype == np.float16:
        sample = sample.astype(np.float32)
    elif sample.dtype.kind == "i" and not positive.any():
        sample = sample.astype(np.float64)  # NumPy's differences would not fit far apart integers
    lower, upper = np.percentile(sample, PERCENTILES, overwrite_input=True)
    return float(lower), float(upper)


def _counted_percentiles(array: NDArray[Any]) -> tuple[float, float]:
    """The same by counting values of up to sixteen bits, without a copy of the volume."""
    lowest = int(np.iinfo(array.dtype).min)
    counts = np.zeros(2 ** (8 * array.dtype.itemsize), np.int64)
    for plane in array:
        counts += np.bincount(plane.ravel().astype(np.int64) - lowest, minlength=len(counts))
    if counts[1 - lowest :].any():
        counts[: 1 - lowest] = 0
    upto = np.cumsum(counts)
    bounds = []
    for percent in PERCENTILES:
        at = (upto[-1] - 1) * (percent / 100)
        below = math.floor(at)
        a, b = (int(np.searchsorted(upto, i, "right")) + lowest for i in (below, below + 1))
        share = at - below
        # Numpy's own way, to the bit.
        bounds.append(a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share))
    return float(bounds[0]), float(bounds[1])


def _stretch(array: NDArray[Any], lower: float, upper: float, keep_zero: bool) -> NDArray[np.uint8]:
    """Clip, min-max and truncate slice by slice: what the whole volume at once gives, without a
    float64 copy of it. Values of up to sixteen bits are looked up, which is four times as fast."""
    low, high = np.clip(extremes(array), lower, upper)
    mapped = np.zeros(array.shape, np.uint8)
    if high <= low:
        return mapped
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2 and array.size > 2**16:
        limits = np.iinfo(array.dtype)
        values = np.arange(limits.min, limits.max + 1).astype(array.dtype)
        table = stretch(values, lower, upper, low, high, keep_zero)
        for plane, out in zip(array, mapped, strict=True):
            out[...] = table[plane.astype(np.int32) - int(limits.min)]
        return mapped
    for plane, out in zip(array, mapped, strict=True):
        out[...] = stretch(plane, lower, upper, low, high, keep_zero)
    return mapped
