"""``PYTHON -m engine.backends.sglang.look``: what an interpreter has of SGLang, as a line of JSON."""

from __future__ import annotations

import ast
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.look import architectures_in, fields_of, folder_of, found_here, parsed

if TYPE_CHECKING:
    from pathlib import Path

_ARGUMENTS: Final = "srt/arg_groups/fields"
_MODELS: Final = "srt/models"


def look() -> dict[str, Any]:
    """Return what is there.

    Returns
    -------
    dict
        As `engine.backends.foreign.look.found_here` has it; and `arguments`: names of the fields of
        `ServerArgs`, `architectures`: model classes, both empty where they cannot be told.
    """
    folder = folder_of("sglang")
    found = found_here("sglang", ("sglang",), ("numpy", "numba"))
    found["arguments"] = [] if folder is None else _arguments(folder)
    found["architectures"] = [] if folder is None else _architectures(folder)
    return found


def _arguments(folder: Path) -> list[str]:
    # `ServerArgs` is put together from the classes of these files.
    groups = sorted((folder / _ARGUMENTS).glob("*.py"))
    return sorted({one for path in groups for one in fields_of(parsed(path)) if not one.startswith("_")})


def _architectures(folder: Path) -> list[str]:
    """Return the classes that the files of models name as their entries."""
    names: set[str] = set()
    for path in sorted((folder / _MODELS).glob("*.py")):
        text = path.read_bytes()
        # Nearly all of the work is parsing, and not all files have an entry.
        if b"EntryClass" not in text:
            continue
        for node in ast.parse(text).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if any(isinstance(one, ast.Name) and one.id == "EntryClass" for one in targets):
                names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return architectures_in(names)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
