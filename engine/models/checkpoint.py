"""Whether the files of a model are whole, told without reading their tensors."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

INDEX: Final = "model.safetensors.index.json"
_LENGTH: Final = struct.Struct("<Q")
_LARGEST_HEADER: Final = 100 << 20


def check_weights(folder: Path) -> None:
    """Check that each safetensors file of a model has as many bytes as its header says.

    Raises
    ------
    EngineError
        If one is cut off or damaged, or the index names one that is not there.
    """
    index = folder / INDEX
    if index.exists():
        named = set(read_json(index).get("weight_map", {}).values())
        for name in sorted(named):
            if not (folder / name).exists():
                raise EngineError(
                    f"--model: {name} is named by {INDEX} but missing in {folder}; copy it there"
                )
    for path in sorted(folder.glob("*.safetensors")):
        expected = _expected_bytes(path)
        if path.stat().st_size != expected:
            raise EngineError(
                f"--model: {path} has {path.stat().st_size:,} bytes, its header says {expected:,}; it was "
                "not copied whole: copy or download it again"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder.

    Raises
    ------
    EngineError
        If it is no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise EngineError(f"--model: {path} is no JSON{where}; copy or download it again") from None
    if not isinstance(found, dict):
        raise EngineError(f"--model: {path} is no JSON object; copy or download it again")
    return found


def _expected_bytes(path: Path) -> int:
    """Return the size of a safetensors file by its header."""
    with path.open("rb") as file:
        head = file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else _LARGEST_HEADER + 1
        header = file.read(length) if length <= _LARGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        return int(_LENGTH.size + length + max(ends, default=0))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise EngineError(f"--model: {path} has no safetensors header; copy or download it again") from None
