"""Loading the tokenizer of a model's folder, as `transformers.AutoTokenizer` does, in a fraction of its time.

`AutoTokenizer` imports torch, and modules of many models, to find out which class a folder's tokenizer has;
the class itself needs neither. So the class is remembered for a folder's files, and is loaded by itself the
next time: if it had given the very same tokenizer the first time.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from engine.cache_places import cache_places

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

_DECIDING: Final = frozenset({".json", ".jinja", ".model", ".py", ".tiktoken", ".txt"})
"""Suffixes of the files that a tokenizer is made of; weights have others."""
_PACKAGE: Final = "transformers"


def load_folder(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model's folder: what ``AutoTokenizer.from_pretrained(folder)`` returns.

    Raises
    ------
    OSError, ValueError, KeyError, ImportError
        As `AutoTokenizer` does, if it cannot be loaded.
    """
    key = _key(folder)
    known = _remembered(key)
    if known is not None:
        return _load(known, folder)
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    name = (type(tokenizer).__module__, type(tokenizer).__qualname__)
    says = _says(tokenizer)
    if says is not None and _is_of_package(name) and _says(_load(name, folder)) == says:
        _remember(key, name)
    return tokenizer


def _key(folder: Path) -> str:
    """Return a digest of all that decides which class a folder's tokenizer has."""
    digest = hashlib.sha256(f"{version(_PACKAGE)}\0{version('tokenizers')}".encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in _DECIDING and path.is_file():
            content = hashlib.sha256(path.read_bytes()).digest()
            digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()


def _load(name: tuple[str, str], folder: Path) -> PreTrainedTokenizerBase:
    module, qualified = name
    tokenizer: PreTrainedTokenizerBase = getattr(import_module(module), qualified).from_pretrained(folder)
    return tokenizer


def _is_of_package(name: tuple[str, str]) -> bool:
    return name[0].partition(".")[0] == _PACKAGE


def _says(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return what a tokenizer does, to compare it; None for one that is written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return {
        "class": type(tokenizer),
        "backend": backend.to_str(),
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
        "settings": tokenizer.init_kwargs,
        "cleaned": tokenizer.clean_up_tokenization_spaces,
    }


def _place(folder: Path, key: str) -> Path:
    return folder / "tokenizers" / f"{key}.json"


def _remembered(key: str) -> tuple[str, str] | None:
    """Return module and name of the class that is remembered under a key."""
    for folder in cache_places():
        # A file that is missing, cut or of somebody else's is as good as none: the class is found anew.
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(_place(folder, key).read_bytes())
            name = (str(found["module"]), str(found["class"]))
            if _is_of_package(name):
                return name
    return None


def _remember(key: str, name: tuple[str, str]) -> None:
    content = json.dumps({"module": name[0], "class": name[1]})
    for folder in cache_places():
        # Without a folder that can be written, the next process takes the longer way again.
        with suppress(OSError):
            place = _place(folder, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            # Several processes may write it at once.
            own = place.with_suffix(f".{os.getpid()}")
            own.write_text(content)
            own.replace(place)
            return
