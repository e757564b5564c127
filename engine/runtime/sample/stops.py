"""Stop tokens and stop strings of requests, checked on the host, and the text of an answer up to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.runtime.sample.answer_text import AnswerText

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from engine.arrays import Int32
    from engine.runtime.sample.settings import Sampling

_LONGEST_CHARACTER = 4
_UNKNOWN, _GOES_ON, _ENDS = range(3)
_MOST_ROWS = 64
"""Sets of stops of which it is kept in an array what tokens do; requests with others are all looked at."""
_START = 1024
_CUT = "\ufffd"
"""What a cut character is in an answer's text."""


class _Strings(NamedTuple):
    """The stop strings of a request.

    `plain` are looked for in the answer's text, `named` in the text in which the special tokens `shown`,
    whose names these hold, have their names. One that is new is in the last `window` tokens that have a text.
    `encoded` are all of them in UTF-8, empty where tokens do not tell whether they end one, and `ends` tells
    of the tokens that have come so far whether they can be the last of a stop string.
    """

    plain: tuple[str, ...]
    named: tuple[str, ...]
    shown: frozenset[int]
    window: int
    encoded: tuple[bytes, ...]
    ends: dict[int, bool]


@dataclass
class StopChecker:
    """Per-request stop tokens and stop strings; only requests that have any are looked at.

    A stop string may span tokens, so the text of the last few tokens is decoded after every token that can be
    the last of one, which few are. Special tokens have no text in an answer; a stop string with the name of
    one ends it at that token all the same.
    """

    settings: Sequence[Sampling]
    tokenizer: PreTrainedTokenizerBase | None
    watched: Int32 = field(init=False)

    def __post_init__(self) -> None:
        self.watched = np.array([bool(s.stop or s.stop_token_ids) for s in self.settings], np.int32)
        if self.tokenizer is None and any(s.stop for s in self.settings):
            raise ValueError("stop: stop strings need a tokenizer; put one into the model folder")
        self._text = None if self.tokenizer is None else AnswerText(self.tokenizer)
        self._known: dict[tuple[str, ...], _Strings] = {}
        # Requests with the same stops share a row of what is known of tokens.
        rows: dict[tuple[object, ...], int] = {}
        self._row_of = np.array(
            [rows.setdefault((s.stop, s.stop_token_ids), len(rows)) for s in self.settings], np.int64
        )
        self._tokens = np.full((min(len(rows), _MOST_ROWS), _START), _UNKNOWN, np.int8)

    def may_stop(self, requests: Int32, tokens: Int32) -> npt.NDArray[np.bool_]:
        """Tell which answers their last tokens may end (int32 [n], both): only those can be `stopped`."""
        rows = self._row_of[requests]
        most = int(tokens.max(initial=0))
        if most >= self._tokens.shape[1]:
            wider = np.full((len(self._tokens), 2 * most), _UNKNOWN, np.int8)
            wider[:, : self._tokens.shape[1]] = self._tokens
            self._tokens = wider
        found = np.full(len(rows), _ENDS, np.int8)
        kept = np.flatnonzero(rows < len(self._tokens))
        found[kept] = self._tokens[rows[kept], tokens[kept]]
        for at in np.flatnonzero(found == _UNKNOWN).tolist():
            token = int(tokens[at])
            ends = self._ends(self.settings[int(requests[at])], token)
            found[at] = self._tokens[rows[at], token] = _ENDS if ends else _GOES_ON
        may: npt.NDArray[np.bool_] = found == _ENDS
        return may

    def stopped(self, request: int, output: Int32) -> bool:
        """Return whether the answer so far (int32 [n], n >= 1) has reached one of its stops.

        It had reached none before its last token.
        """
        settings, last = self.settings[request], int(output[-1])
        if last in settings.stop_token_ids:
            return True
        if not settings.stop or self._text is None or not self._ends(settings, last):
            return False
        ids = output.tolist()
        if settings.min_tokens:
            return len(ids) > settings.min_tokens and self._cut(settings, ids) is not None
        stops = self._strings(settings.stop)
        if stops.plain:
            text = self._text(self._text.last(ids, stops.window))
            if any(s in text for s in stops.plain):
                return True
        if not stops.named:
            return False
        end = self._text.last(ids, stops.window, stops.shown)
        text = "".join(piece for piece, _ in self._text.split(end, stops.shown))
        return any(s in text for s in stops.named)

    def text(self, request: int, output: Int32) -> str:
        """Return the answer's text without special tokens, cut before the first stop string, or behind it."""
        if self._text is None:
            return ""
        ids, settings = output.tolist(), self.settings[request]
        cut = self._cut(settings, ids) if settings.stop else None
        return self._text(ids) if cut is None else cut

    def _cut(self, settings: Sampling, ids: list[int]) -> str | None:
        """Return the text of an answer up to the first stop string; None if there is none in it."""
        if self._text is None:
            return None
        stops, least, found = self._strings(settings.stop), settings.min_tokens, []
        behind = settings.include_stop_str_in_output
        # One that is over before a stop may end the answer is text like any other.
        text, before = self._text(ids), self._text(ids[:least]) if least else ""
        end = _first(text, stops.plain, len(before), behind=behind)
        if end is not None:
            found.append(text[:end])
        if stops.named:
            pieces = list(self._text.split(ids, stops.shown))
            early = sum(len(piece) for piece, _ in self._text.split(ids[:least], stops.shown))
            left = _first("".join(piece for piece, _ in pieces), stops.named, early, behind=behind)
            if left is not None:
                kept = []
                for piece, is_name in pieces:
                    kept.append("" if is_name else piece[:left])
                    left = max(left - len(piece), 0)
                found.append("".join(kept))
        return min(found, key=len, default=None)

    def _strings(self, stop: tuple[str, ...]) -> _Strings:
        if stop not in self._known:
            names = {} if self._text is None else self._text.special
            shown = frozenset(i for i, name in names.items() if name and any(name in s for s in stop))
            named = tuple(s for s in stop if any(names[i] in s for i in shown))
            plain = tuple(s for s in stop if s not in named)
            window = max(len(s.encode()) for s in stop) + _LONGEST_CHARACTER
            encoded = () if any(_CUT in s for s in stop) else tuple(s.encode() for s in stop)
            self._known[stop] = _Strings(plain, named, shown, window, encoded, {})
        return self._known[stop]

    def _ends(self, settings: Sampling, token: int) -> bool:
        """Tell whether a token can be the last of a request's answer for its stops."""
        if token in settings.stop_token_ids:
            return True
        if not settings.stop:
            return False
        stops = self._strings(settings.stop)
        if token not in stops.ends:
            stops.ends[token] = self._can_end(stops, token)
        return stops.ends[token]

    def _can_end(self, stops: _Strings, token: int) -> bool:
        """Tell whether a token can be the last of a stop string: it begins with an end of one, or has one.

        A stop string without replacement characters is in a text if its bytes are in those of the tokens.
        """
        added = None if self._text is None or not stops.encoded else self._text.bytes_of(token, stops.shown)
        if added is None:
            return True
        return any(
            stop in added or any(added.startswith(stop[at:]) for at in range(1, len(stop)))
            for stop in stops.encoded
        )


def _first(text: str, strings: Sequence[str], least: int, *, behind: bool) -> int | None:
    """Return where the first of `strings` begins in `text`, or if `behind` ends; None if none is in it.

    One that ends within the first `least` characters does not count.
    """
    places = [(text.find(s, max(least - len(s) + 1, 0) if least else 0), len(s)) for s in strings]
    found = [(place, length) for place, length in places if place >= 0]
    if not found:
        return None
    place, length = min(found)
    return place + length if behind else place
