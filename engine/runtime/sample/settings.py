"""The sampling settings of a request, as they cross the process boundary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one request.

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
