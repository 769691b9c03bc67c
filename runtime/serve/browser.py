"""Showing the page in this machine's browser, without telling its key to everybody who lists processes."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from html import escape
from pathlib import Path

from runtime.files.atomic import write_text

LETTER = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>medsam2 serve</title>
<a href="{url}">To the page</a>
"""


def show(url: str, folder: Path, show_url: Callable[[str], object] = webbrowser.open) -> None:
    """Open an address in a browser.

    One with a key stands in no command line: the browser is shown a file that leads there.

    Args:
        url: of the page, a key behind its #.
        folder: that nobody but this user can look into, for the file.
        show_url: opens an address.
    """
    if "#" not in url:
        show_url(url)
        return
    letter = LETTER.format(url=escape(url, quote=True))
    show_url(write_text(folder / "page.html", letter).as_uri())
