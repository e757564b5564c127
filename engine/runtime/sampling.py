"""Sampling settings of every request as rows of arrays, and stop conditions checked on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from engine.runtime.state import Int32


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


class Sampler:
    """Draws the next tokens of a step, each row with the settings of its request."""

    def __init__(self, settings: Sequence[Sampling]) -> None:
        self._temperature = torch.tensor([s.temperature for s in settings], dtype=torch.float32)
        self._top_k = torch.tensor([s.top_k for s in settings], dtype=torch.int64)
        self._top_p = torch.tensor([s.top_p for s in settings], dtype=torch.float32)
        seeds = np.array([s.seed & 0xFFFFFFFFFFFFFFFF for s in settings], np.uint64)
        self._seed = torch.from_numpy(seeds.view(np.int64))

    def __call__(self, logits: Tensor, requests: Tensor, positions: Tensor) -> Tensor:
        """Return int64 [R]: the tokens drawn from `logits` [R, vocab] for the request indices [R].

        `positions` int64 [R] is the place in its sequence that each new token will take.
        """
        return kernels.sample(
            logits,
            self._temperature[requests],
            self._top_k[requests],
            self._top_p[requests],
            self._seed[requests],
            positions,
        )


@dataclass
class StopChecker:
    """Per-request stop tokens and stop strings; only requests that have any are looked at.

    A stop string may span tokens, so the text of the last few tokens is decoded after every token.
    """

    settings: Sequence[Sampling]
    tokenizer: PreTrainedTokenizerBase | None
    watched: Int32 = field(init=False)

    def __post_init__(self) -> None:
        self.watched = np.array([bool(s.stop or s.stop_token_ids) for s in self.settings], np.int32)
        if self.tokenizer is None and any(s.stop for s in self.settings):
            raise ValueError("stop: stop strings need a tokenizer; put one into the model folder")

    def stopped(self, request: int, output: Int32) -> bool:
        """Return whether the answer so far (int32 [n], n >= 1) has reached one of its stops."""
        settings = self.settings[request]
        if int(output[-1]) in settings.stop_token_ids:
            return True
        if not settings.stop or self.tokenizer is None:
            return False
        # A token can be a single byte of a character, so the window is counted in bytes plus one character.
        window = max(len(s.encode()) for s in settings.stop) + 4
        text = self.tokenizer.decode(output[-window:].tolist(), skip_special_tokens=True)
        return any(s in text for s in settings.stop)

    def text(self, request: int, output: Int32) -> str:
        """Return the answer's text without special tokens, cut before the first stop string."""
        if self.tokenizer is None:
            return ""
        text = str(self.tokenizer.decode(output.tolist(), skip_special_tokens=True))
        cuts = [i for i in (text.find(s) for s in self.settings[request].stop) if i >= 0]
        return text[: min(cuts)] if cuts else text
