"""Tokenizers are those that `transformers` takes for a model, and are loaded and used without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer

from tasks.profile.auto_tokenizer import _told_of, auto_tokenizer
from tests.support.paths import ROOT
from tests.support.tokenizers import KINDS, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}"
CHATS = [{"role": "user", "content": text} for text in TEXTS]


def write(folder: Path, kind: str, config: dict[str, Any] | None, own: dict[str, Any]) -> Path:
    """Write a tokenizer of a kind beside a model's configuration, with other settings of its own."""
    fast = KINDS[kind]()
    fast.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    kept = json.loads(path.read_text()) | own
    path.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def told(tokenizer: Any) -> dict[str, Any]:
    """Return all of a tokenizer that enters prompts and answers."""
    encoded = [
        tokenizer(text, add_special_tokens=special)["input_ids"]
        for text in TEXTS
        for special in (False, True)
    ]
    return {
        "class": type(tokenizer),
        "ids": encoded,
        "texts": [tokenizer.decode(ids) for ids in encoded],
        "vocabulary": tokenizer.get_vocab(),
        "added": {i: repr(token) for i, token in tokenizer.added_tokens_decoder.items()},
        "special": tokenizer.special_tokens_map,
        "chat": tokenizer.apply_chat_template(CHATS, tokenize=False),
        "backend": tokenizer.backend_tokenizer.to_str(),
    }


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma2", None])
@pytest.mark.parametrize("kind", ["byte-level", "llama-2", "unigram"])
def test_it_is_the_one_that_transformers_takes(tmp_path: Path, kind: str, model_type: str | None) -> None:
    classes = ("PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "Qwen2TokenizerFast", None)
    for name in classes:
        config = None if model_type is None else {"model_type": model_type}
        folder = write(tmp_path / str(name), kind, config, {"tokenizer_class": name})
        assert told(auto_tokenizer(str(folder))) == told(AutoTokenizer.from_pretrained(folder)), name


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"model_type": "gemma2"}, {}),
        ({"model_type": "mistral", "layer_types": ["full_attention"]}, {}),
        ({"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}, {}),
        ({"model_type": "llama"}, {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
        ({"model_type": "llama"}, {"tokenizer_class": None}),
        ({"model_type": ["llama"]}, {}),
        ([], {}),
        (None, {}),
    ],
)
def test_what_only_the_class_of_a_configuration_can_tell_is_left_to_it(
    tmp_path: Path, config: Any, own: dict[str, Any]
) -> None:
    folder = write(tmp_path / "m", "byte-level", config, own)
    assert _told_of(folder) is None
    assert _told_of(write(tmp_path / "n", "byte-level", {"model_type": "llama"}, {})) is not None


_LOADS = """
import sys
from pathlib import Path
from tasks.profile.tokenizer import load_tokenizer
tokenizer = load_tokenizer(str(Path("infra/demo/model")))
text = tokenizer.template.render([{"role": "user", "content": "hello"}])
assert tokenizer.encode([text], special=False)[0]
heavy = sorted({"torch", "numba", "triton", "prefect", "polars"} & sys.modules.keys())
assert not heavy, heavy
assert len(sys.modules) < 1000, len(sys.modules)
from transformers import modeling_rope_utils
import torch
assert modeling_rope_utils.torch.Tensor is torch.Tensor
assert sys.modules["torch"] is torch and torch.nn.Linear(1, 1)
"""


def test_no_torch_is_loaded_for_prompts_and_it_can_be_after_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
