"""Scaling curves as a picture: stages of a slice's time above, peak memory below."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

from runtime.files.atomic import write_whole
from runtime.measure.latency import COLUMNS

LABELS = {
    "slices": "slices",
    "objects": "objects",
    "prompted": "prompted slices",
    "threads": "threads",
    "size": "image size of the model (pixels)",
}
WIDTH_IN, HEIGHT_IN, DPI = 3.6, 6.4, 110
HEADROOM = 1.15
STAGES_ACROSS = 3  # names in the legend across one panel
TITLE_WIDTH = 48  # letters across one panel


def draw(report: Mapping[str, Any], heading: str, path: Path) -> None:
    """Write the picture."""
    matplotlib.use("Agg")
    sweeps = report["sweeps"]
    figure, axes = plt.subplots(
        2, len(sweeps), figsize=(WIDTH_IN * len(sweeps), HEIGHT_IN), squeeze=False
    )
    for column, (name, rows) in enumerate(sweeps.items()):
        values = [row[name] for row in rows]
        above, below = axes[:, column]
        stages = [stage for stage in COLUMNS if stage != "total"]
        heights = [[row["latency_ms"][stage] for row in rows] for stage in stages]
        above.stackplot(values, heights, labels=stages, alpha=0.85)
        below.plot(values, [row["peak_memory_mib"] for row in rows], "o-", color="black")
        for panel in (above, below):
            panel.set_xscale("log", base=2)
            panel.set_xticks(values, [str(value) for value in values])
            panel.set_xticks([], minor=True)
            panel.set_ylim(0, HEADROOM * panel.dataLim.ymax)
            panel.grid(alpha=0.3)
        below.set_xlabel(LABELS[name])
    axes[0, 0].set_ylabel("ms per slice (median)")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    handles, stages = axes[0, 0].get_legend_handles_labels()
    columns = min(len(stages), STAGES_ACROSS * len(sweeps))
    figure.legend(handles, stages, loc="lower center", ncols=columns, fontsize=7, frameon=False)
    figure.suptitle(textwrap.fill(heading, TITLE_WIDTH * len(sweeps)), fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI))
    plt.close(figure)
