"""Constraints of running requests: the tokens that each may take next, and where its answer is complete.

What a request has taken in is its answer's tokens alone, so that one that was preempted goes on from them.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par

from engine.grammar.constraint import grammar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from engine.arrays import Int32, Int64
    from engine.runtime.sample.settings import Sampling

MOST_GRAMMARS: Final = 1024
"""Compiled ones that are kept although no running request has them."""
_MOST_THREADS: Final = 16


@dataclass
class _Grammar:
    """A compiled grammar: `first` has taken nothing in and is only copied, `spare` are copies for later."""

    first: LLMatcher
    spare: list[LLMatcher] = field(default_factory=list)
    users: int = 0

    def take(self) -> LLMatcher:
        self.users += 1
        return self.spare.pop() if self.spare else self.first.deep_copy()

    def give_back(self, matcher: LLMatcher) -> None:
        self.users -= 1
        if not matcher.is_error() and matcher.reset():
            self.spare.append(matcher)


@dataclass
class _Running:
    """A running request: its matcher, and how many tokens of its answer that has taken in."""

    grammar: _Grammar
    matcher: LLMatcher
    taken: int = 0


class Constraints:
    """The constraints of the requests of an engine run; see `engine.grammar.constraint`.

    Parameters
    ----------
    settings
        Of all requests.
    tokenizer
        Of the model; needed where any request has a constraint.
    vocab_size
        Of the model: columns of its logits.
    stop_token_ids
        All tokens that end an answer of the model.

    Attributes
    ----------
    any
        Whether any request has one.
    words
        Of a mask.
    failures
        Why requests could not be held to their constraints, by request. They end at once.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        tokenizer: PreTrainedTokenizerBase | None,
        vocab_size: int,
        stop_token_ids: Sequence[int],
    ) -> None:
        self._texts = [s.constraint for s in settings]
        self._has = np.array([text is not None for text in self._texts], bool)
        self.any = bool(self._has.any())
        self.failures: dict[int, str] = {}
        self._running: dict[int, _Running] = {}
        self._grammars: OrderedDict[str, _Grammar] = OrderedDict()
        self._vocabulary: LLTokenizer | None = None
        self._fault = ""
        self.words = -(-vocab_size // 32)
        if self.any:
            if tokenizer is None:
                raise ValueError("constraint: needs a tokenizer; put one into the model folder")
            try:
                self._vocabulary = make_vocabulary(tokenizer, vocab_size, stop_token_ids)
                self.words = -(-self._vocabulary.vocab_size // 32)
            except ValueError as error:
                self._fault = f"the tokenizer of this model does not take constraints ({error})"
            self._executor = LLExecutor(min(len(os.sched_getaffinity(0)), _MOST_THREADS))

    def rows(self, requests: Int32 | Int64) -> Int64:
        """Return which of `requests` ([R]) have one, as indices int64 [r]."""
        return np.flatnonzero(self._has[requests])

    def fill(self, requests: Sequence[int], answers: Sequence[Int32], out: Int32) -> None:
        """Write which tokens may come next.

        Parameters
        ----------
        requests, answers
            m of them, and their answers so far.
        out
            int32 [at least m, words]: row i gets the mask of request i.
        """
        out[: len(requests)] = -1
        asked = []
        for row, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            matcher = self._follow(request, answer)
            # Of an answer that is complete one token more is computed, and thrown away.
            if matcher is not None and not matcher.is_stopped():
                asked.append((matcher, row))
        if not asked:
            return
        fill_next_token_bitmask_par(self._executor, asked, out)
        for matcher, row in asked:
            if matcher.is_error():
                self._fail(requests[row], matcher.get_error())
                out[row] = -1

    def ended(self, request: int, answer: Int32) -> bool:
        """Return whether an answer (int32 [n]) cannot go on: it is complete, or its constraint has failed."""
        if not self._has[request]:
            return False
        matcher = self._follow(request, answer)
        return matcher is None or matcher.is_stopped()

    def forget(self, request: int) -> None:
        """Let go of a request that has ended or was preempted."""
        running = self._running.pop(request, None)
        if running is not None:
            running.grammar.give_back(running.matcher)

    def _follow(self, request: int, answer: Int32) -> LLMatcher | None:
        """Return the request's matcher after its answer so far; None if there is none to go by."""
        if request in self.failures:
            return None
        running = self._running.get(request)
        if running is None:
            running = self._begin(request)
            if running is None:
                return None
        if running.taken > len(answer):
            running.matcher.reset()
            running.taken = 0
        new = answer[running.taken :].tolist()
        running.taken = len(answer)
        if new and not running.matcher.consume_tokens(new):
            self._fail(request, running.matcher.get_error())
            return None
        return running.matcher

    def _begin(self, request: int) -> _Running | None:
        text = self._texts[request]
        if text is None or self._vocabulary is None:
            self._fail(request, self._fault)
            return None
        found = self._grammars.get(text)
        if found is None:
            self._drop_unused()
            found = self._grammars[text] = _Grammar(LLMatcher(self._vocabulary, grammar(text), log_level=0))
        self._grammars.move_to_end(text)
        if found.first.is_error():
            self._fail(request, found.first.get_error())
            return None
        self._running[request] = _Running(found, found.take())
        return self._running[request]

    def _drop_unused(self) -> None:
        """Make room for a grammar: drop those that were used longest ago, if there are too many."""
        unused = [text for text, found in self._grammars.items() if not found.users]
        for text in unused[: max(len(self._grammars) + 1 - MOST_GRAMMARS, 0)]:
            del self._grammars[text]

    def _fail(self, request: int, why: str) -> None:
        # What follows shows the state of the parser, which holds text of the answer.
        self.failures[request] = why.partition("\n")[0].partition("<state>")[0].strip()[:200]
        self.forget(request)


def make_vocabulary(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, stop_token_ids: Sequence[int]
) -> LLTokenizer:
    """Return the vocabulary of a model as grammars see it.

    Raises
    ------
    ValueError
        If its tokens are not known as bytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("it has no tokenizer.json")
    backend = copy(backend)
    backend.no_padding()
    backend.no_truncation()
    text = backend.to_str()
    known = max(tokenizer.get_vocab().values(), default=-1) + 1
    ends = [stop for stop in stop_token_ids if stop < known]
    if not ends:
        # Without any, the first token would be taken for one.
        text, ends = _with_an_end(text, known), [known]
    # Tokens that the model does not have get bits as well: nobody reads them.
    return LLTokenizer(text, n_vocab=max(known, vocab_size, max(ends) + 1), eos_token=ends)


def _with_an_end(text: str, token_id: int) -> str:
    """Return a tokenizer.json with one more special token."""
    made = json.loads(text)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    end = {"id": token_id, "content": "<|end of a constrained answer|>", **flags, "special": True}
    return json.dumps({**made, "added_tokens": [*(made.get("added_tokens") or []), end]})
