"""Which file of the project imports which, read from the code; nothing is run.

Imports inside functions and under ``TYPE_CHECKING`` count: they tie files together as all others do.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Node = TypeVar("Node", bound=str)


@dataclass(frozen=True, order=True)
class Import:
    """One import of a file by another one; both are paths from the project's root."""

    source: str
    target: str
    line: int


def python_files(root: Path, *folders: str) -> list[str]:
    """Return the paths of all Python files below these folders, from the root, sorted."""
    found = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return sorted(path.relative_to(root).as_posix() for path in found)


def module_of(file: str) -> str:
    """Return the name by which a file is imported."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(root: Path, file: str) -> tuple[tuple[str, int], ...]:
    """Return every dotted name that a file imports, with its line; ``from a import b`` gives ``a.b``."""
    module = module_of(file)
    package = module if file.endswith("/__init__.py") else module.rpartition(".")[0]
    return _names_in((root / file).read_text(), package)


@lru_cache(maxsize=4096)
def _names_in(text: str, package: str) -> tuple[tuple[str, int], ...]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def imports_of(root: Path, file: str, files: Mapping[str, str]) -> Iterator[Import]:
    """Yield the imports of a file among `files`, which maps names of modules to paths."""
    for name, line in imported_names(root, file):
        # The last part may be a module, or a name in one.
        target = files.get(name) or files.get(name.rpartition(".")[0])
        if target is not None and target != file:
            yield Import(file, target, line)


def all_imports(root: Path, *folders: str) -> list[Import]:
    """Return every import among the Python files below these folders, sorted."""
    files = {module_of(file): file for file in python_files(root, *folders)}
    return sorted({found for file in files.values() for found in imports_of(root, file, files)})


def outside_packages(root: Path, files: Iterable[str]) -> dict[str, list[str]]:
    """Return the top-level packages that these files import, each with the files that do so."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        names = {name.partition(".")[0] for name, _ in imported_names(root, file)}
        for name in sorted(names):
            found[name].append(file)
    return dict(found)


def reached(root: Path, starts: Iterable[str], *folders: str, but: tuple[str, ...] = ()) -> list[str]:
    """Return the files that `starts` import, by way of others too, and `starts` themselves; sorted.

    Parameters
    ----------
    starts
        Paths of files.
    folders
        Where imports are followed.
    but
        Beginnings of paths that are not followed.
    """
    files = {module_of(file): file for file in python_files(root, *folders) if not file.startswith(but)}
    found, left = set(), list(starts)
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        left += [step.target for step in imports_of(root, file, files)]
        # Importing a module runs what its packages begin with.
        parts = file.split("/")
        packages = ("/".join([*parts[:depth], "__init__.py"]) for depth in range(1, len(parts)))
        left += [package for package in packages if files.get(module_of(package)) == package]
    return sorted(found)


def circles(arrows: Iterable[tuple[Node, Node]]) -> list[tuple[Node, ...]]:
    """Return the groups of nodes that reach each other, each sorted (Tarjan, SIAM J. Comput. 1(2), 1972)."""
    after: dict[Node, list[Node]] = defaultdict(list)
    for source, target in arrows:
        after[source].append(target)
    number: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    stack: list[Node] = []
    found = []

    def visit(node: Node) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in after.get(node, ()):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(tuple(sorted(group)))

    for node in sorted(after):
        if node not in number:
            visit(node)
    return sorted(found)
