"""Tokenizers of the kinds that models come with, made on the spot, without chat templates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Callable

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|tool name|>"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog.",
    "it's a test, isn't it? (yes!)",
    " a first space,  two  spaces and a last one ",
    "one\ntwo\n\n three\tfour",
    "naïve Grüße, 12.5 % of €4",
    "東京 and 你好 🚀🙂 mixed",
    "dog words",
]


def _fast(inner: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    return fast


def byte_level() -> PreTrainedTokenizerFast:
    """As of Llama 3 and Qwen: BPE over bytes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    return _fast(inner)


def _with_bytes(inner: Tokenizer) -> Tokenizer:
    """Add byte tokens, which nothing is merged of, and drop the pieces of other scripts."""
    told = json.loads(inner.to_str())
    model, names = told["model"], [f"<0x{i:02X}>" for i in range(256)]
    if model["type"] == "Unigram":
        model["vocab"] = [p for p in model["vocab"] if p[0].isascii() or "▁" in p[0]]
        model["vocab"] += [[name, -20.0] for name in names]
    else:
        model["vocab"] |= {name: len(model["vocab"]) + i for i, name in enumerate(names)}
    model["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(told))


def llama_2() -> PreTrainedTokenizerFast:
    """As of Llama 2 and Mistral 7B: SentencePiece BPE with byte tokens, a first space taken away."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    inner.train_from_iterator([text for text in TEXTS if text.isascii()] * 3, trainer)
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return _fast(_with_bytes(inner))


def unigram(*, byte_tokens: bool = False, prepend: str = "always") -> PreTrainedTokenizerFast:
    """SentencePiece's Unigram with a metaspace, with byte tokens or without."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    inner.decoder = decoders.Metaspace(prepend_scheme=prepend)
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    if byte_tokens:
        inner.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=prepend)]
        )
        inner = _with_bytes(inner)
    return _fast(inner)


def word_piece() -> PreTrainedTokenizerFast:
    """Words and pieces of words, as of BERT; a space is no part of any token."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False)
    inner.train_from_iterator(TEXTS * 3, trainer)
    return _fast(inner)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "llama-2": llama_2,
    "unigram": unigram,
    "unigram-first": lambda: unigram(prepend="first"),
    "unigram-never": lambda: unigram(prepend="never"),
    "unigram-bytes": lambda: unigram(byte_tokens=True),
    "word-piece": word_piece,
}
