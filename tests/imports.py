"""Who imports whom, read from the sources: type-only imports and those inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, set[str]]


def modules(root: Path, floors: tuple[str, ...]) -> dict[str, Path]:
    """Name of every module on these floors to its file."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for floor in floors
        for path in sorted((root / floor).rglob("*.py"))
    }


def import_graph(root: Path, floors: tuple[str, ...]) -> dict[str, set[str]]:
    """Every module to those of these floors that it imports."""
    known = modules(root, floors)
    return {
        name: {target for target in _targets(path, known) if target != name}
        for name, path in known.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """Modules that import each other, whatever the way round: strongly connected ones (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    closed: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                closed.append(stack[start:])
            del stack[start:]

    for name in graph:
        if name not in number:
            visit(name)
    return closed


def _targets(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module
