"""LoRA adapters that a night names: their folders as peft writes them, looked at before any work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.options import OPTION
from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

ADAPTER: Final = "adapter"
"""The option: ``adapter=NAME=FOLDER``, once for each."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM has room for."""
_MARK: Final = "@"
_DIGITS: Final = 16
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Adapter:
    """An adapter.

    Attributes
    ----------
    name
        What the `model` of a request calls it.
    folder
        Where it is.
    rank
        Of its matrices.
    digest
        Of its files: answers depend on it.
    """

    name: str
    folder: str
    rank: int
    digest: str

    @property
    def identity(self) -> str:
        """What stands for it in the settings of a request, and so in the key of its answer."""
        return f"{self.name}{_MARK}{self.digest}"


def split_adapters(given: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the adapters among options as they were typed, name -> folder, and the other options.

    Raises
    ------
    OptionError
        If one has no name or no folder, or two have one name.
    """
    folders: dict[str, str] = {}
    others = []
    for one in given:
        key, _, value = one.partition("=")
        if key != ADAPTER:
            others.append(one)
            continue
        name, _, folder = value.partition("=")
        if not name or not folder:
            raise OptionError(f"{OPTION} {ADAPTER}", "is not of the form NAME=FOLDER", "give it both")
        if name in folders:
            raise OptionError(f"{OPTION} {ADAPTER}", f"{name} is there twice", "give each its own name")
        folders[name] = folder
    return folders, others


def read_adapter(name: str, folder: str) -> Adapter:
    """Look at an adapter.

    Raises
    ------
    OptionError
        If it is none, or has what vLLM does not take.
    """
    option, place = f"{OPTION} {ADAPTER}", Path(folder).resolve()
    for file in (CONFIG, WEIGHTS):
        if not (place / file).is_file():
            raise OptionError(option, f"{folder} holds no {file}", "name the folder of a LoRA adapter")
    try:
        config: Any = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        kind, rank = config.get("peft_type"), config.get("r")
    except (ValueError, AttributeError):
        raise OptionError(option, f"{CONFIG} of {name} is no JSON object", "save it anew") from None
    if kind != "LORA" or not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= RANKS[-1]:
        told = f"{name} is not a LoRA adapter of rank 1 to {RANKS[-1]}"
        raise OptionError(option, told, "name another adapter")
    for field in ("use_dora", "modules_to_save"):
        if config.get(field):
            raise OptionError(option, f"{name} has {field}, which vLLM does not take", "merge it instead")
    found = hashlib.sha256()
    for file in (CONFIG, WEIGHTS):
        with (place / file).open("rb") as stream:
            while block := stream.read(_BLOCK):
                found.update(block)
    return Adapter(name, str(place), rank, found.hexdigest()[:_DIGITS])


def room_for(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Return the arguments with which vLLM has room for all adapters at a time; none without any."""
    if not adapters:
        return {}
    most = max(one.rank for one in adapters)
    rank = next(rank for rank in RANKS if rank >= most)
    # One place more than there are adapters: on the CPU, vLLM 0.32 takes the last one for requests without an
    # adapter where a step has some with one, and an empty place changes nothing.
    return {"enable_lora": True, "max_loras": len(adapters) + 1, "max_lora_rank": rank}
