"""How a model's embeddings are made of its hidden states, as sentence-transformers stores it in its folder.

`modules.json` lists the modules that a text goes through: the transformer, its pooling, whose settings are in
the module's own folder (`1_Pooling/config.json`), and `Normalize` where embeddings have length 1. A folder
without that file says nothing of embeddings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engine.choices import LAST, MEAN
from engine.errors import EngineError, UnsupportedModelError
from engine.models.checkpoint import read_json

if TYPE_CHECKING:
    from pathlib import Path

MODULES: Final = "modules.json"
_TRANSFORMER, _POOLING, _NORMALISE = "Transformer", "Pooling", "Normalize"
_MODES: Final = {"lasttoken": LAST, "mean": MEAN, "mean_tokens": MEAN}
"""How the two poolings are called: as one setting, or as the ends of the names of flags."""
_FLAG: Final = "pooling_mode_"


@dataclass(frozen=True)
class Pooling:
    """How an embedding is made.

    Attributes
    ----------
    kind
        A key of `engine.choices.POOLINGS`.
    normalised
        Whether it has length 1.
    """

    kind: str
    normalised: bool = True

    def __str__(self) -> str:
        return f"{self.kind}, normalised" if self.normalised else self.kind


def load_pooling(folder: Path) -> Pooling | None:
    """Return how the embeddings of the model in a folder are made; None if it does not say.

    Raises
    ------
    UnsupportedModelError
        If they are made in a way that is not implemented; it is named.
    EngineError
        If one of the files is missing or no JSON.
    """
    path = folder / MODULES
    if not path.exists():
        return None
    kinds = [_module(one, path) for one in _read_list(path)]
    names = [name for name, _ in kinds]
    known = [_TRANSFORMER, _POOLING, _NORMALISE]
    if names not in (known[:2], known):
        raise UnsupportedModelError(
            MODULES,
            ", ".join(names),
            "only Transformer, Pooling and Normalize, in this order, are implemented",
        )
    settings = folder / kinds[1][1] / "config.json"
    if not settings.exists():
        raise EngineError(f"--model: {path} names {kinds[1][1]}/config.json, which is missing; copy it there")
    return Pooling(_mode(read_json(settings)), normalised=_NORMALISE in names)


def _mode(settings: dict[str, Any]) -> str:
    told = settings.get("pooling_mode")
    if told is None:
        told = [name.removeprefix(_FLAG) for name in settings if name.startswith(_FLAG) and settings[name]]
    modes = [told] if isinstance(told, str) else list(told)
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedModelError(
            "pooling_mode", " and ".join(map(str, modes)), "only lasttoken and mean are implemented"
        )
    return _MODES[modes[0]]


def _read_list(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise EngineError(f"--model: {path} is no JSON list; copy or download it again")
    return found


def _module(one: object, path: Path) -> tuple[str, str]:
    """Return the class of a module, without its package, and its folder."""
    kind, place = (one.get("type"), one.get("path")) if isinstance(one, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(place, str):
        raise EngineError(f"--model: {path} has a module without type or path; copy or download it again")
    return kind.rpartition(".")[2], place
