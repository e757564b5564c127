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

    from engine.runtime.state import Int32, Int64


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


DRAW_ROWS = 256
"""Rows drawn at a time: sorting a large vocabulary in float32 takes much memory per row."""


class Sampler:
    """Draws the next tokens of a step, each row with the settings of its request.

    The settings are on the device, with one more row for padding, which is greedy. Which rows are drawn is
    known on the host, so that nothing has to be read back.
    """

    def __init__(self, settings: Sequence[Sampling], device: torch.device | str = "cpu") -> None:
        rows = [*settings, Sampling(max_tokens=1)]
        seeds = np.array([s.seed & 0xFFFFFFFFFFFFFFFF for s in rows], np.uint64)
        self._temperature = torch.tensor([s.temperature for s in rows], dtype=torch.float32, device=device)
        self._top_k = torch.tensor([s.top_k for s in rows], dtype=torch.int64, device=device)
        self._top_p = torch.tensor([s.top_p for s in rows], dtype=torch.float32, device=device)
        self._seed = torch.from_numpy(seeds.view(np.int64)).to(device)
        self._drawn = np.array([s.temperature > 0 for s in rows])
        self._restricted = np.array([s.top_k > 0 or s.top_p < 1 for s in rows])

    def drawn(self, requests: Int64) -> tuple[Int64, bool]:
        """Return which rows are not greedy, and whether any of those has a top-k or top-p.

        `requests` is int64 [R], on the host.
        """
        rows = np.flatnonzero(self._drawn[requests])
        return rows, bool(self._restricted[requests[rows]].any())

    def __call__(
        self, logits: Tensor, requests: Tensor, positions: Tensor, rows: Tensor, *, restricted: bool
    ) -> Tensor:
        """Return int64 [R]: the tokens chosen from `logits` [R, vocab].

        Parameters
        ----------
        requests, positions
            Integers [R]: the request, and the place in its sequence that each new token will take.
        rows, restricted
            What `drawn` returned, the rows on the device.
        """
        tokens = kernels.greedy(logits)
        for first in range(0, rows.shape[0], DRAW_ROWS):
            some = rows[first : first + DRAW_ROWS]
            asked = requests[some]
            tokens[some] = kernels.draw(
                logits[some],
                self._temperature[asked],
                self._top_k[asked],
                self._top_p[asked],
                self._seed[asked],
                positions[some].to(torch.int64),
                restricted=restricted,
            )
        return tokens


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
