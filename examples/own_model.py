"""A model of one's own: makes a tiny one, shows the folder that is needed, and runs a night with it.

    python examples/own_model.py [FOLDER]

The model has random weights and a vocabulary of a few hundred tokens, so its answers are noise. What counts
is the folder: any model of the Llama, Mistral, Qwen2 or Qwen3 architecture that is saved like this can be
used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from flows.api import run_night

ROOT = Path(__file__).resolve().parents[1]
# Text to learn a vocabulary from.
CORPUS = [(ROOT / "infra" / "demo" / "model" / "MODEL.md").read_text(encoding="utf-8")]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; the chat template turns messages into a prompt."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")  # noqa: S106 - of a text
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(folder: Path) -> None:
    """Save a random Llama and its tokenizer as transformers saves any model."""
    logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # The engine stops at this token.
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_logs(folder: Path) -> None:
    """Write a log in the form of the OpenAI Batch API."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "day.jsonl").open("w", encoding="utf-8") as file:
        for number in range(6):
            messages = [{"role": "user", "content": f"What is the demo model's shape, part {number}?"}]
            body = {"model": "tiny", "messages": messages, "max_tokens": 8}
            line = {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def main(folder: Path) -> None:
    """Make the model and run the night."""
    make_model(folder / "model")
    print("What the engine needs of a model:")
    for path in sorted((folder / "model").iterdir()):
        print(f"  {path.name:<24}{path.stat().st_size:>8,} bytes")

    write_logs(folder / "logs")
    night = run_night(
        job="own-model",
        source=folder / "logs",
        store=folder / "store",
        model=folder / "model",
        run_date="2026-11-22",
        report=False,
    )
    print(night.read_outputs().select("custom_id", "text", "finish_reason"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".demo" / "examples" / "own_model")
