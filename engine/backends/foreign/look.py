"""What an interpreter has of an engine, read from files within a moment: the engine is not imported."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GRAMMARS: Final = "llguidance"
"""What constraints are made with."""


def found_here(package: str, distributions: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    """Return what is there of an engine.

    Parameters
    ----------
    package
        Name of its module.
    distributions
        Names that it is installed by; the first one that is there counts.
    needed
        Further modules that have to be there.

    Returns
    -------
    dict
        `python`: version of the interpreter; `distribution`, `version` of the engine, None without one;
        `missing`: modules that have to be there and are not; `grammars`: version of llguidance, None
        without it.
    """
    found: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    installed = {name: _version(name) for name in distributions}
    there = next((name for name in distributions if installed[name] is not None), None)
    found |= {"distribution": there, "version": None if there is None else installed[there]}
    found["grammars"] = _version(GRAMMARS)
    found["missing"] = [name for name in (*needed, package) if find_spec(name) is None]
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def folder_of(package: str) -> Path | None:
    """Return the folder of a package; None if it is not there."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def parsed(path: Path) -> ast.Module | None:
    """Return the syntax tree of a file; None if there is none."""
    return ast.parse(path.read_bytes()) if path.exists() else None


def fields_of(tree: ast.Module | None, name: str | None = None) -> list[str]:
    """Return the annotated fields of a class of a file, or of all its classes."""
    return [
        target.id
        for node in (() if tree is None else tree.body)
        if isinstance(node, ast.ClassDef) and name in {None, node.name}
        for target in (one.target for one in node.body if isinstance(one, ast.AnnAssign))
        if isinstance(target, ast.Name)
    ]


def architectures_in(names: Iterable[str]) -> list[str]:
    """Return those of the names that are model classes, as the field `architectures` of a model has them."""
    return sorted({one for one in names if one.endswith(_ENDS)})


_ENDS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
