"""Random texts of a constraint: tokens drawn from the masks alone, brackets and quotes more often."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import AutoTokenizer

from engine.grammar.constraint import grammar
from engine.models.config import load_config
from engine.runtime.sample.constraints import make_vocabulary
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    import random

    from llguidance import LLTokenizer

CLOSING = ('"', "}", "]", '",', ",", ":", "/", "\\")


@cache
def demo_vocabulary() -> LLTokenizer:
    config = load_config(DEMO_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return make_vocabulary(tokenizer, config.vocab_size, config.stop_token_ids)


@cache
def _closing() -> list[int]:
    return [demo_vocabulary().tokenize_str(text)[0] for text in CLOSING]


def random_text(constraint: str, rng: random.Random, most: int = 300) -> str | None:
    """Return a text of a constraint, None if it takes more than `most` tokens."""
    vocabulary = demo_vocabulary()
    matcher = LLMatcher(vocabulary, grammar(constraint), log_level=0)
    size = vocabulary.vocab_size
    mask, tokens = allocate_token_bitmask(1, size), []
    while not matcher.is_stopped():
        if len(tokens) == most:
            return None
        fill_next_token_bitmask(matcher, mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:size]
        closing = [token for token in _closing() if bits[token]]
        allowed = closing if closing and rng.random() < 0.4 else np.flatnonzero(bits)
        token = int(allowed[rng.randrange(len(allowed))])
        assert matcher.consume_token(token)
        if token not in vocabulary.eos_tokens:
            tokens.append(token)
    assert not matcher.is_error(), json.dumps(matcher.get_error())
    return vocabulary.decode_bytes(tokens).decode()
