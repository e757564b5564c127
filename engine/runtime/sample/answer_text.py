"""The text that the tokens of an answer add to the text before them."""

from __future__ import annotations

import json
import re
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from tokenizers import decoders

from engine.runtime.sample.token_text import TokenText

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORDS = ("a", "e", "i", "o", "A", "E", "1", "2", "the")
_SCANNED = 5000


class AnswerText:
    """Decodes tokens as what follows a text, so that prompt and answer read on.

    Decoders in the manner of SentencePiece are made for whole texts: they take away a first space, and make
    every byte of a run of byte tokens a replacement character if one character of it is cut. So tokens are
    decoded after a word, whose text is taken away again, and bytes by themselves: whole characters stay.

    Attributes
    ----------
    special
        Names of the special tokens, by id. They have no text in an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self.special: dict[int, str] = {token_id: str(token) for token_id, token in added if token.special}
        self.special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_of: dict[int, int] = {}
        self._before: tuple[list[int], str] = [], ""
        self._adds_bytes = backend is not None and isinstance(backend.decoder, decoders.ByteLevel)
        if not self._adds_bytes:
            self._byte_of = self._byte_tokens()
            self._before = self._word()
        self._without_text: dict[int, bool] = {}
        # Nothing else is done to what it gives. Transformers looks at the type of every token first.
        self._backend = None if _decodes_by_itself(tokenizer) or _cleans(tokenizer) else backend
        self._bytes = TokenText(tokenizer) if _adds_up(tokenizer) else None

    def __call__(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones; a cut character is U+FFFD."""
        ids = [token for token in token_ids if token not in self.special]
        if not self._byte_of:
            return self._decode(ids)
        parts = []
        for are_bytes, run in groupby(ids, key=self._byte_of.__contains__):
            if are_bytes:
                parts.append(bytes(self._byte_of[token] for token in run).decode(errors="replace"))
            else:
                parts.append(self._decode(list(run)))
        return "".join(parts)

    def split(self, token_ids: Sequence[int], shown: frozenset[int]) -> Iterator[tuple[str, bool]]:
        """Yield pieces of text in order, and whether each is a name of special tokens, those in `shown`."""
        for is_shown, run in groupby(token_ids, key=shown.__contains__):
            if is_shown:
                yield "".join(self.special[token] for token in run), True
            else:
                yield self(list(run)), False

    def last(self, token_ids: Sequence[int], count: int, shown: frozenset[int] = frozenset()) -> list[int]:
        """Return the last `count` tokens that have a text of their own, or a name that is `shown`."""
        found = (token for token in reversed(token_ids) if token in shown or not self._is_silent(token))
        return list(islice(found, count))[::-1]

    def bytes_of(self, token: int, shown: frozenset[int] = frozenset()) -> bytes | None:
        """Return the UTF-8 bytes that a token adds to an answer, whatever stands around it.

        Special tokens add none, those in `shown` their names. None if the text of a token depends on others.
        """
        if token in shown:
            return self.special[token].encode()
        if self._is_silent(token):
            return b""
        if self._bytes is None or not (self._adds_bytes or self._before[1]):
            return None
        found = self._bytes(token)
        return found if found.decode(errors="replace") == self([token]) else None

    def _is_silent(self, token: int) -> bool:
        """Tell whether a token has no text: a special one, or an id that the vocabulary does not have."""
        if token not in self._without_text:
            known = token in self.special or not self._tokenizer.convert_ids_to_tokens(token)
            self._without_text[token] = known
        return self._without_text[token]

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        before, word = self._before
        decode = (self._backend or self._tokenizer).decode
        return str(decode(before + ids, skip_special_tokens=True))[len(word) :]

    def _byte_tokens(self) -> dict[int, int]:
        """Return the byte of each token that stands for one."""
        vocabulary = self._tokenizer.get_vocab().items()
        found = ((token_id, _BYTE_TOKEN.fullmatch(piece)) for piece, token_id in vocabulary)
        return {token_id: int(byte[1], 16) for token_id, byte in found if byte}

    def _word(self) -> tuple[list[int], str]:
        """Return a token that is a plain word, with its text; none if there is no such token."""
        for token_id in self._candidates():
            if token_id in self.special or token_id in self._byte_of:
                continue
            word = str(self._tokenizer.decode([token_id]))
            twice = str(self._tokenizer.decode([token_id, token_id]))
            if (
                word.isascii()
                and word.strip().isalnum()
                and twice.startswith(word)
                and len(twice) > len(word)
            ):
                return [token_id], word
        return [], ""

    def _candidates(self) -> Iterator[int]:
        vocabulary = self._tokenizer.get_vocab()
        for word in _WORDS:
            yield from (vocabulary[piece] for piece in (word, "\u2581" + word) if piece in vocabulary)
        yield from islice(vocabulary.values(), _SCANNED)


def _adds_up(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the text of tokens, after a word, is that of each of them one after the other.

    Known are decoders over bytes and those in the manner of SentencePiece, as long as nothing is done to the
    text afterwards.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or _decodes_by_itself(tokenizer):
        return False
    if _cleans(tokenizer):
        return False
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    return [step.get("type") for step in steps] == ["ByteLevel"] or all(map(_is_plain, steps))


def _cleans(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell a tokenizer that takes spaces out of a text which its decoder has made."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    forced = getattr(tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", 0)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return bool(forced) or backend is None or type(backend.model).__name__ != "BPE"


def _decodes_by_itself(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell a class that decodes in a way of its own, such as without what comes after some mark."""
    own = [kind.__name__ for kind in type(tokenizer).__mro__ if {"decode", "_decode"} & vars(kind).keys()]
    return not set(own) <= {"TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizerBase"}


def _is_plain(step: dict[str, Any]) -> bool:
    """Tell a step in the manner of SentencePiece that looks at one token, or at the first space alone."""
    kind = step.get("type")
    if kind == "Replace":
        return step.get("pattern") == {"String": "\u2581"} and step.get("content") == " "
    if kind == "Strip":
        return step.get("content") == " " and step.get("start", 2) <= 1 and step.get("stop") == 0
    return kind in ("ByteFallback", "Fuse") or (kind == "Metaspace" and step.get("replacement") == "\u2581")
