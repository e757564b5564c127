"""Stop tokens and stop strings of requests, checked on the host, and the text of an answer up to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from engine.arrays import Int32
    from engine.runtime.sample.settings import Sampling


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
