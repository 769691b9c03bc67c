"""The race for people."""

from __future__ import annotations

from typing import Any

from runtime.measure.latency import COLUMNS
from runtime.process.counted import counted


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    base, volume = next(iter(report["contenders"])), report["volume_slices"]
    headers = [
        *COLUMNS,
        f"against {base}",
        *([f"{volume} slices both ways"] if volume else []),
        "MiB",
        "worst logit error",
        "Dice",
        "lowest Dice",
    ]
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {counted(report['objects'], 'object')}, "
        f"medians in ms per slice; {report['machine']}; PyTorch on {report['device']}",
        "",
        "| | " + " | ".join(headers) + " |",
        "|---" * (len(headers) + 1) + "|",
    ]
    for name, entry in report["contenders"].items():
        medians = [entry["latency_ms"][column]["median"] for column in COLUMNS]
        cells = [
            *(f"{ms:.1f}" if ms else "" for ms in medians),
            f"{entry['times_first']:.2f}",
            *([_volume(entry)] if volume else []),
            ", ".join(f"{where} {mib:.0f}" for where, mib in entry["memory_mib"].items()),
            f"{entry['worst_relative_error']:.1e}",
            f"{entry['dice']:.4f}",
            f"{entry['lowest_dice']:.4f}",
        ]
        lines.append(f"| {name}: {entry['description']} | {' | '.join(cells)} |")
    lines += [f"{name} cannot run here: {reason}" for name, reason in report["absent"].items()]
    return "\n".join(lines)


def _volume(entry: dict[str, Any]) -> str:
    """Milliseconds, and in ratio to the first one's."""
    if not entry["volume_ms"]:
        return "failed"
    ratio = entry["volume_times_first"]
    return f"{entry['volume_ms']:.0f}" + (f" ({ratio:.2f})" if ratio else "")
