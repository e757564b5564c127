"""The layering: data flows one way, and the engine runs on a node that has none of the flow's packages."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import engine

ROOT = Path(__file__).parents[1]
FLOW_PACKAGES = {"prefect", "polars", "pyarrow", "boto3", "pydantic"}


def imported(folder: str) -> set[tuple[str, str]]:
    """(file, top-level package) of every import below a folder, those inside functions included."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            found |= {(path.name, name.partition(".")[0]) for name in names}
    return found


def test_nothing_later_is_imported_by_anything_earlier():
    assert [hit for hit in imported("engine") if hit[1] in {"tasks", "flows", *FLOW_PACKAGES}] == []
    assert [hit for hit in imported("tasks") if hit[1] in {"flows", "prefect"}] == []


def test_the_engine_loads_without_the_flow_packages():
    modules = [found.name for found in pkgutil.walk_packages(engine.__path__, "engine.")]
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in sorted(FLOW_PACKAGES))
    code = f"import sys\n{blocked}import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)
