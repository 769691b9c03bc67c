"""Counts in messages."""

from __future__ import annotations


def counted(count: int, one: str, several: str | None = None) -> str:
    """A count and what is counted: `1 study`, `2 studies`; without `several`, the word with an s."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"
