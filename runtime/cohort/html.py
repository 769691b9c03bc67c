"""Pieces of a page that needs nothing but itself: escaped text, histograms as SVG, pictures as data."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOOT = 300, 110, 18  # of a histogram, in pixels
BINS = 24
PICTURE_WIDTH, QUALITY = 720, 72  # of a preview on the page; JPEG's

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --note: #5b6470; --paper: #fff; --line: #d8dde3; --bar: #2f6f9f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaee; --note: #9aa4b0; --paper: #14171b; --line: #333a42; --bar: #6fb1e0; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1160px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p, figcaption { color: var(--note); margin: .2rem 0; max-width: 75ch; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.2rem; }
figure { margin: 0; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
.sheet img { width: 100%; height: auto; display: block; } .sheet figcaption { overflow-wrap: anywhere; }
.caution { border-left: 4px solid #b7791f; padding: .3rem .8rem; margin: 1rem 0; }
svg text { fill: var(--note); font-size: 11px; } svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        f"'unsafe-inline'\"><title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of text and numbers; numbers stand on the right."""
    body: list[str] = []
    numeric = [False] * len(heads)
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
            numeric[i] |= is_number
            shown = "" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)
            cells.append(f"<td{' class=n' if is_number else ''}>{escape(shown)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    top = "".join(
        f"<th{' class=n' if is_number else ''}>{escape(head)}</th>"
        for head, is_number in zip(heads, numeric, strict=True)
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def histogram(title: str, values: Sequence[float], is_log: bool = False) -> str:
    """How values are spread; on a logarithmic axis those above zero."""
    array = np.asarray([v for v in values if v > 0 or not is_log], float)
    if not len(array):
        return f"<figure><figcaption>{escape(title)}: none</figcaption></figure>"
    shown = np.log10(array) if is_log else array
    low, high = float(shown.min()), float(shown.max())
    counts, edges = np.histogram(shown, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
    step, most = WIDTH / BINS, max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{i * step + 1:.1f}" y="{HEIGHT - HEIGHT * n / most:.1f}" width="{step - 2:.1f}" '
        f'height="{HEIGHT * n / most:.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    ends = [10**edge if is_log else edge for edge in (edges[0], edges[-1])]
    middle = float(np.median(array))
    words = f"{title}: median {middle:.3g}, {len(array)} in all, {most} in the highest bar"
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT + FOOT}" role="img" aria-label="{escape(words)}">{bars}'
        f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>'
        f'<text x="0" y="{HEIGHT + 14}">{ends[0]:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{ends[1]:.3g}</text></svg>'
        f"<figcaption>{escape(title)}, median {middle:.3g}{' (logarithmic)' if is_log else ''}</figcaption></figure>"
    )


def picture(path: Path) -> str | None:
    """A preview as data for an `img`, made smaller; None where there is none that can be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
        data = io.BytesIO()
        small.save(data, format="JPEG", quality=QUALITY)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
