"""How this project talks to SimpleITK's readers: quietly, and with errors people can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class _WhenUsed:
    """SimpleITK, imported when something of it is first asked for: who brings arrays of their own never loads it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("SimpleITK"), name)


# SimpleITK ships a py.typed marker and no annotations, so type checkers must be told to let it be.
sitk: Any = _WhenUsed()

_ADDRESS = re.compile(r"\(0x[0-9a-f]+\)")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK's C++ warnings off stderr meanwhile; the process-wide setting is put back after."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def reason(error: RuntimeError) -> str:
    """The part of an ITK exception's text that says what went wrong, on one line."""
    text = re.split(r"ERROR:", str(error))[-1]
    return _ADDRESS.sub("", " ".join(text.split()))[:300]
