"""The tokenizer that `transformers` takes for a model, without torch where none is needed for it.

`AutoTokenizer` chooses the class of a tokenizer by the model's configuration, and the classes of
configurations import torch, which takes seconds. The choice needs four texts of `config.json` alone, so for
the models that `engine.models` knows a plain configuration with these is handed to it. Of what is left, one
module imports torch at its head and uses it in functions that no tokenizer calls: it gets a stand-in.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of `model_type` whose configurations say no more about a tokenizer than their files do."""


def auto_tokenizer(model: str) -> Any:  # noqa: ANN401 - no exact type
    """Return what ``AutoTokenizer.from_pretrained(model)`` returns; import torch only where that needs it.

    Parameters
    ----------
    model : str
        A local folder or a hub id.

    Raises
    ------
    OSError, ValueError, KeyError, ImportError
        If there is no tokenizer that can be loaded.
    """
    with _torch_put_off():
        from transformers import AutoTokenizer

        told = _told_of(Path(model))
        if told is None:
            return AutoTokenizer.from_pretrained(model)
        from transformers.configuration_utils import PreTrainedConfig

        config = PreTrainedConfig(name_or_path=model, **told)
        # Of the class elsewhere; of this one object here.
        vars(config)["model_type"] = told["model_type"]
        return AutoTokenizer.from_pretrained(model, config=config)


def _told_of(folder: Path) -> dict[str, Any] | None:
    """Return what of a model's configuration decides on its tokenizer; None if only its class can tell."""
    try:
        config, own = (
            json.loads((folder / name).read_bytes()) for name in ("config.json", "tokenizer_config.json")
        )
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not isinstance(own, dict):
        return None
    kind = config.get("model_type")
    # `layer_types` make another model of a Mistral; `auto_map` names code beside the model.
    if not isinstance(kind, str) or kind not in _PLAIN or (kind == "mistral" and "layer_types" in config):
        return None
    if "auto_map" in config or "auto_map" in own or not isinstance(own.get("tokenizer_class"), str):
        return None
    return {name: config.get(name) for name in ("model_type", "model_name", "tokenizer_class")}


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is first used."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        _take_away(self)
        return getattr(import_module(self.__name__), name)


def _take_away(stand_in: ModuleType) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]


@contextmanager
def _torch_put_off() -> Iterator[None]:
    """Let modules that are imported in the block import torch when they first use it."""
    spec = find_spec("torch") if "torch" not in sys.modules else None
    if spec is None:
        yield
        return
    from transformers.utils import is_torch_available

    # Asked now, and remembered there, since it looks for the module itself.
    is_torch_available()
    stand_in = _Later("torch")
    stand_in.__spec__ = spec
    sys.modules["torch"] = stand_in
    try:
        yield
    finally:
        _take_away(stand_in)
