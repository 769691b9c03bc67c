"""What an annotator saves, as a picture: a cohort's mean Dice against time, and seconds for each object by way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.annotation.figures import (
    BY_DOUBT,
    BY_TRUTH,
    MODEL,
    QUEUE,
    RANDOM,
    SCRATCH,
    WAYS,
)
from runtime.files.atomic import write_whole

SIZE_IN, DPI, RATIOS = (15.0, 4.6), 100, (1, 1, 1.1)
PAPERS_SHARE = (
    0.15  # of the time by hand: MedSAM2's abstract (arXiv 2504.03600) tells of more than 85 % less
)
LOOKS = {
    SCRATCH: ("0.45", "-"),
    MODEL: ("tab:blue", "-"),
    QUEUE: ("tab:orange", "-"),
    RANDOM: ("tab:green", "-"),
    BY_DOUBT: ("tab:orange", "-"),
    BY_TRUTH: ("black", ":"),
}
WHOLE, REVIEW = (SCRATCH, MODEL, QUEUE), (RANDOM, BY_DOUBT, BY_TRUTH)
PARTS = {"drawing by hand": "0.65", "prompts and looking": "tab:blue", "waiting": "tab:red"}
HEADROOM = 1.08


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a report of `python -m benchmarks annotator`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=SIZE_IN, width_ratios=RATIOS)
    _curves(left, report, WHOLE)
    left.set(title="a cohort from nothing to accepted", ylabel="mean 3-D Dice", ylim=(0, 1))
    _curves(middle, report, REVIEW)
    middle.set_title("review of a cohort's masks, by order")
    _bars(right, report)
    heading = (
        f"Simulated annotator, {report['objects']} objects of held-out phantoms; "
        f"{report['model']} on {report['backend'].split(',')[0]}, {report['machine']}"
    )
    figure.suptitle(heading, fontsize=10)
    figure.tight_layout()
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI, format="png"))
    plt.close(figure)


def _curves(axes: Any, report: Mapping[str, Any], names: tuple[str, ...]) -> None:
    curves = report["orders"]["curves"]
    curves = {**curves, QUEUE: curves[BY_DOUBT]}
    for name in names:
        colour, style = LOOKS[name]
        parts = {key: np.array(text.split(), float) for key, text in curves[name].items()}
        minutes = parts["seconds"] / 60
        count = report["random_orders"]["count"]
        label = f"{name}, and 80 % of {count}" if "low" in parts else name
        axes.plot(minutes, parts["dice"], color=colour, linestyle=style, label=label)
        if "low" in parts:
            axes.fill_between(minutes, parts["low"], parts["high"], color=colour, alpha=0.2, lw=0)
    axes.set_xlabel("minutes of the annotator")
    axes.set_xlim(left=0)
    axes.locator_params("y", steps=(1, 2, 5, 10))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _bars(axes: Any, report: Mapping[str, Any]) -> None:
    """Seconds of each way to each target, in parts; targets are groups."""
    costs = report["habits"]["costs"]
    places, names, rows, saved, marks = [], [], [], [], []
    for group, (target, ways) in enumerate(report["summary"].items()):
        for index, way in enumerate(WAYS):
            means = ways[way]
            hand = (
                costs["slice_s"] * means["slices_by_hand"]
                + costs["vertex_s"] * means["vertices_by_hand"]
            )
            waited = means["waited_s"]
            places.append(group * (len(WAYS) + 1) + index)
            names.append(f"{way}\nto Dice {target}" if index == 0 else way)
            rows.append((hand, means["seconds"] - hand - waited, waited))
            saved.append(means["time_saved"])
            marks.append(PAPERS_SHARE * ways[SCRATCH]["seconds"])
    starts = np.zeros(len(rows))
    for index, (part, colour) in enumerate(PARTS.items()):
        widths = np.array([row[index] for row in rows])
        axes.barh(places, widths, left=starts, color=colour, label=part)
        starts += widths
    for place, name, total, share, mark in zip(places, names, starts, saved, marks, strict=True):
        if name in (MODEL, QUEUE):
            text = f" {abs(100 * share):.0f} % {'less' if share >= 0 else 'more'}"
            axes.text(total, place, text, va="center", fontsize=8)
            axes.plot([mark, mark], [place - 0.4, place + 0.4], "k--", lw=1)
    axes.plot([], [], "k--", lw=1, label="85 % less")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, HEADROOM * starts.max())
    axes.set_xlabel("seconds for each object (mean)")
    axes.set_title("what an object takes")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=4, frameon=False)
