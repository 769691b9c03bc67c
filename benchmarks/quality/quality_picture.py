"""A picture of quality: Dice by distance from the prompt, and the worst cases beside their truth."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.labelled import Case
from runtime import Result, SliceMask
from runtime.preview.preview import draw_preview
from runtime.track import Segmented

WIDTH_INCHES, HEIGHT_INCHES, DPI = 14.7, 4.6, 100
FOUND, TRUTH = 1, 2  # object ids in the pictures of cases: yellow and blue


@dataclass(frozen=True, slots=True)
class Example:
    """One case and what was found: 3-D Dice, pixels (z, y, x) as the network saw them."""

    dice: float
    case: Case
    pixels: NDArray[np.uint8]
    result: Result


def draw_quality(report: dict[str, Any], worst: list[Example]) -> Image.Image:
    """Curves of a report's volumes, a bar for each setting's 3-D Dice, and the worst cases under its first setting."""
    parts = [_curves(report), *(_case(example) for example in worst)]
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _curves(report: dict[str, Any]) -> Image.Image:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI, width_ratios=(3, 2)
    )
    settings = report["summary"].get("volumes", {})
    for name, means in settings.items():
        points = [(0, means["prompted_slice"]), *means["by_distance"].items()]
        finite = [(d, v) for d, v in points if v is not None]
        left.plot(*zip(*finite, strict=True), marker="o", label=name)
    if settings:
        copied = next(iter(settings.values()))["copy_of_mask"]
        left.axhline(
            copied, color="grey", linestyle=":", label="copy of the prompted slice's truth"
        )
    left.set(xlabel="slices from the prompt", ylabel="Dice", ylim=(0, 1), title=report["data"])
    left.legend(fontsize=7)
    bars = [(f"{n} ({g})", m["dice"]) for g, s in report["summary"].items() for n, m in s.items()]
    right.barh([name for name, _ in bars], [value for _, value in bars], color="tab:blue")
    right.set(xlim=(0, 1), xlabel="3-D Dice", title=f"{report['model']}, {report['backend'][:40]}")
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return Image.open(stream).convert("RGB")


def _case(example: Example) -> Image.Image:
    truth = {i: _as_mask(i, plane) for i, plane in enumerate(example.case.truth)}
    both = Result(example.result.shapes, {FOUND: example.result.slices[1], TRUTH: truth})
    title = f"found, truth: {example.case.name}, Dice {example.dice:.2f}"
    spacing_yx_mm = example.case.volume.spacing_mm[1:]
    return draw_preview(example.pixels, both, {}, spacing_yx_mm, title)


def _as_mask(index: int, plane: NDArray[np.bool_]) -> SliceMask:
    logits = np.where(plane, 10, -10).astype(np.float32)
    segmented = Segmented(logits, 1.0, 10.0, np.zeros(0, np.float32))
    return SliceMask(index, TRUTH, segmented, plane.shape)
