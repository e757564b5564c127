"""The sampling settings of a request, as they cross the process boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.arrays import Bool

CHANGING: Final = ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_p", "min_tokens")
"""Settings that change logits by a number; `logit_bias` changes them, too."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one sequence: how its answer is sampled, or how its prompt becomes an embedding.

    Attributes
    ----------
    max_tokens
        Most tokens to generate, at least 1; the context length may end an answer earlier.
    temperature
        0 is greedy.
    top_k, top_p
        0 and 1.0 mean no limit.
    seed
        Unsigned 64-bit; every draw is a function of (seed, position).
    stop
        Strings that end the answer and are not part of its text.
    stop_token_ids
        Token ids that end the answer, besides the model's own.
    ignore_eos
        Whether the model's own stop tokens are ignored.
    logprobs
        How many alternatives per token are wanted beside its own log probability; None: neither.
    constraint
        What the whole answer has to be (`engine.grammar.constraint`); None: anything. The answer ends where
        the constraint allows nothing more, whatever `ignore_eos` says.
    presence_penalty, frequency_penalty, repetition_penalty, min_p, min_tokens, logit_bias
        What is changed of the logits before a token is chosen (`engine.runtime.sample.penalties`); 0, 0, 1,
        0, 0 and no pairs (token id, bias) change nothing. Up to `min_tokens` no stop string ends the answer.
    include_stop_str_in_output
        Whether the stop string that ends the answer is part of its text.
    pooling
        A key of `engine.choices.POOLINGS`: an embedding of the prompt is wanted, and no text.
        To the scheduler it is an answer of one token, which is complete once the prompt is computed;
        `max_tokens` is 1, and the other settings have no effect. None: an answer.
    normalised, dimensions
        Of an embedding: whether it has length 1, and how many of its first components are kept; None: all.
    adapter
        Which adapter of the model answers, as ``NAME@DIGEST``; None: the model itself.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: str | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    include_stop_str_in_output: bool = False
    pooling: str | None = None
    normalised: bool = True
    dimensions: int | None = None
    adapter: str | None = None


def wants_embedding(sampling: Sequence[Sampling]) -> Bool:
    """Return bool [N]: which requests want an embedding."""
    return np.array([one.pooling is not None for one in sampling], np.bool_)
