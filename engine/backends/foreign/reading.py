"""Answers of engines by others, read as our own engine's: where they end, and what their text is.

An engine that constrains an answer by a grammar lets it end with a stop token alone, and takes one more for
that where nothing else may follow; ours ends without it. Whether the answer is what its constraint asks for
is not left to the engine, but looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from engine.runtime.sample.constraints import Constraints
    from engine.runtime.sample.settings import Sampling


class Answered(NamedTuple):
    """An answer.

    Attributes
    ----------
    token_ids, text
        Its tokens, and their text up to a stop string, or with it where the request wants it.
    finish_reason
        One of `engine.backends.foreign.answers.REASONS`.
    """

    token_ids: list[int]
    text: str
    finish_reason: str


class AnswerReader:
    """Reads the answers of a job.

    Parameters
    ----------
    sampling
        Of all requests.
    tokenizer
        Of the model.
    vocab_size
        Of the model: columns of its logits.
    model_stops
        Ids of the tokens that end an answer of this model.
    """

    def __init__(
        self,
        sampling: Sequence[Sampling],
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        model_stops: Sequence[int],
    ) -> None:
        # These need what the other interpreter has where the engine is.
        from engine.runtime.sample.stops import StopChecker

        self._sampling = sampling
        self._ends = {*model_stops, getattr(tokenizer, "eos_token_id", None)}
        self._stops = StopChecker(sampling, tokenizer)
        self._constraints: Constraints | None = None
        if any(settings.constraint is not None for settings in sampling):
            from engine.runtime.sample.constraints import Constraints

            self._constraints = Constraints(sampling, tokenizer, vocab_size, model_stops)

    def read(self, request: int, token_ids: Sequence[int], text: str, reason: str) -> Answered | str:
        """Return an answer, or why it is none.

        Parameters
        ----------
        token_ids, text, reason
            As the engine tells them.
        """
        ids, settings = [int(token) for token in token_ids], self._sampling[request]
        if self._constraints is not None and settings.constraint is not None:
            try:
                end = self._end(self._constraints, request, ids)
            finally:
                self._constraints.forget(request)
            behind = [] if end is None else ids[end:]
            # What may be behind it is the token that the engine has ended it with.
            if request in self._constraints.failures or behind[1:] or not self._ends.issuperset(behind):
                # Why it is not would quote it.
                return "its answer is not what its constraint asks for"
            if end is not None:
                ids, reason = ids[:end], "stop"
        elif not settings.stop:
            return Answered(ids, text, reason)
        # Which stop string counts is a question of tokens, too (`min_tokens`).
        return Answered(ids, self._stops.text(request, np.array(ids, np.int32)), reason)

    @staticmethod
    def _end(constraints: Constraints, request: int, ids: list[int]) -> int | None:
        """Return after how many tokens an answer can not go on; None if it could."""
        answer = np.array(ids, np.int32)
        lengths = range(1, len(ids) + 1)
        return next((length for length in lengths if constraints.ended(request, answer[:length])), None)
