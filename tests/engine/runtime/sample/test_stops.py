"""Stops are found exactly where the text of an answer first has one, though few tokens are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from engine.runtime.sample.answer_text import AnswerText
from engine.runtime.sample.settings import Sampling
from engine.runtime.sample.stops import StopChecker
from engine.runtime.sample.token_text import _byte_level_alphabet
from tests.support.tokenizers import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

LETTER = {byte: letter for letter, byte in _byte_level_alphabet().items()}
SPECIAL = "<|end|>"
# Few signs, so that stops come about: two, three and four bytes long, one whose bytes are parts of another's.
SIGNS = "ab \né€🙂"
PIECE = st.one_of(
    st.text(SIGNS, min_size=1, max_size=4).map(str.encode),
    st.text(SIGNS, min_size=1, max_size=3)
    .map(str.encode)
    .flatmap(lambda data: st.sampled_from(_parts(data))),
)
STOP = st.text(SIGNS, min_size=1, max_size=5)


def _parts(data: bytes) -> list[bytes]:
    return [data[at:end] for at in range(len(data)) for end in range(at + 1, len(data) + 1)]


def wrapped(inner: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    tokenizer.add_tokens(["é", "a b"])
    return tokenizer


def byte_level(pieces: Sequence[bytes]) -> PreTrainedTokenizerFast:
    names = dict.fromkeys("".join(LETTER[byte] for byte in piece) for piece in pieces)
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    inner.decoder = decoders.ByteLevel()
    return wrapped(inner)


def sentence_piece(pieces: Sequence[bytes]) -> PreTrainedTokenizerFast:
    names = ["▁the", "the"]
    for piece in pieces:
        try:
            names.append(piece.decode().replace(" ", "▁"))
        except UnicodeDecodeError:
            names += [f"<0x{byte:02X}>" for byte in piece]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(dict.fromkeys(names))}, []))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(inner)


def first_stop(text: AnswerText, ids: Sequence[int], stops: Sequence[str]) -> int | None:
    """The definition: the shortest beginning whose text has a stop string, or shows it in special tokens."""
    shown = frozenset(i for i, name in text.special.items() if any(name in stop for stop in stops))
    for n in range(1, len(ids) + 1):
        told = "".join(piece for piece, _ in text.split(ids[:n], shown))
        plain = text(ids[:n])
        for stop in stops:
            named = any(text.special[i] in stop for i in shown)
            if stop in (told if named else plain):
                return n
    return None


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_answer_ends_where_its_text_first_has_a_stop(make, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make(data.draw(st.lists(PIECE, min_size=1, max_size=8)))
    text = AnswerText(tokenizer)
    stop = tuple(
        data.draw(st.lists(STOP | st.sampled_from(["a" + SPECIAL, SPECIAL]), min_size=1, max_size=3))
    )
    checker = StopChecker([Sampling(max_tokens=9, stop=stop)], tokenizer)
    for _ in range(3):
        ids = data.draw(st.lists(st.integers(0, len(tokenizer)), min_size=1, max_size=20))
        output = np.array(ids, np.int32)
        ended = next((n for n in range(1, len(ids) + 1) if checker.stopped(0, output[:n])), None)
        assert ended == first_stop(text, ids, stop)
        may = checker.may_stop(np.zeros(len(ids), np.int32), output)
        assert ended is None or may[ended - 1]


def test_more_sets_of_stops_than_are_kept_end_answers_all_the_same() -> None:
    tokenizer = KINDS["byte-level"]()
    vocabulary = tokenizer.get_vocab()
    settings = [Sampling(max_tokens=9, stop=(f"q{i}", "a"), stop_token_ids=(7,)) for i in range(100)]
    checker = StopChecker(settings, tokenizer)
    requests = np.array([0, 0, 0, 0, 99], np.int32)
    tokens = np.array([vocabulary["a"], vocabulary["b"], 7, 5000, 5000], np.int32)
    for _ in range(2):
        assert checker.may_stop(requests, tokens).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"word-piece"}))
def test_few_tokens_are_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer("the quick brown fox jumps over the lazy dog. " * 8, add_special_tokens=False)[
        "input_ids"
    ]
    checker = StopChecker([Sampling(max_tokens=9, stop=("zy?", "\n\n"))], tokenizer)
    looked = 0

    def last(_: AnswerText, ids: Sequence[int], *__: object) -> list[int]:
        nonlocal looked
        looked += 1
        return list(ids)[-3:]

    monkeypatch.setattr(AnswerText, "last", last)
    output = np.array(ids, np.int32)
    assert not any(checker.stopped(0, output[:n]) for n in range(1, len(ids) + 1))
    assert looked < len(ids) / 8


def test_tokens_whose_text_depends_on_others_are_all_looked_at() -> None:
    """WordPiece puts a space before a word; a class of its own may cut a text; cleaning takes spaces away."""
    assert AnswerText(KINDS["word-piece"]()).bytes_of(7) is None
    assert AnswerText(KINDS["byte-level"]()).bytes_of(7) is not None

    class Cutting(PreTrainedTokenizerFast):
        def _decode(self, *args, **kwargs) -> str:  # type: ignore[no-untyped-def]
            return super()._decode(*args, **kwargs).partition("!")[0]

    plain = KINDS["byte-level"]()
    assert AnswerText(Cutting(tokenizer_object=plain.backend_tokenizer)).bytes_of(7) is None
    unigram = KINDS["unigram"]()
    unigram.clean_up_tokenization_spaces = True
    assert AnswerText(unigram).bytes_of(7) is None
