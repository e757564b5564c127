"""The text of answers against `transformers`, for each kind of tokenizer, and where their stops are."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runtime.sample.answer_text import AnswerText
from engine.runtime.sample.settings import Sampling
from engine.runtime.sample.stops import StopChecker
from engine.runtime.sample.token_text import TokenText
from tests.support.tokenizers import KINDS, SPECIAL, TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast

SENTENCEPIECE = sorted(set(KINDS) - {"byte-level", "word-piece"})
CUT = "\ufffd"


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return KINDS[kind]()


@cache
def text_of(kind: str) -> AnswerText:
    return AnswerText(tokenizer_of(kind))


def ids_of(kind: str, *pieces: str) -> list[int]:
    tokenizer = tokenizer_of(kind)
    found = [tokenizer.get_vocab()[piece] for piece in pieces]
    assert len(found) == len(pieces)
    return found


def check(kind: str, ids: Sequence[int], *stop: str, **settings: Any) -> tuple[str, int | None]:
    """Return the answer's text, and after how many tokens it stops."""
    checker = StopChecker([Sampling(max_tokens=9, stop=stop, **settings)], tokenizer_of(kind))
    output = np.array(ids, np.int32)
    ends = (n for n in range(1, len(ids) + 1) if checker.stopped(0, output[:n]))
    return checker.text(0, output), next(ends, None)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_answer_read_on_as_transformers_decodes_them_together(kind: str) -> None:
    tokenizer, compared = tokenizer_of(kind), 0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        for cut in range(1, len(ids)):
            prompt = tokenizer.decode(ids[:cut], skip_special_tokens=True)
            # Where a prompt ends within a character, its own text is not the beginning of the whole one.
            if CUT not in prompt and prompt.strip():
                assert prompt + text_of(kind)(ids[cut:]) == whole
                compared += 1
    assert compared > 40


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_tokens_read_on_after_any_words(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    for word in ("dog", "the quick"):
        prompt = tokenizer(word, add_special_tokens=False)["input_ids"]
        before = tokenizer.decode(prompt, skip_special_tokens=True)
        whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
        if CUT not in whole:
            assert before + text_of(kind)(ids) == whole


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_a_first_space_stays_and_can_be_a_stop(kind: str) -> None:
    dog = tokenizer_of(kind)("a dog", add_special_tokens=False)["input_ids"][1:]
    assert check(kind, dog * 2) == (" dog dog", None)
    assert check(kind, dog * 2, " dog") == ("", len(dog))
    assert check(kind, dog * 2, "dog") == (" ", len(dog))
    names = b"".join(map(TokenText(tokenizer_of(kind)), dog * 2))
    assert names == b" dog dog", "log probabilities tell the same text"


@pytest.mark.parametrize("kind", ["llama-2", "unigram-bytes"])
def test_a_whole_character_before_a_cut_one_stays(kind: str) -> None:
    euro, cut = ["<0xE2>", "<0x82>", "<0xAC>"], ["<0xF0>", "<0x9F>"]
    assert check(kind, ids_of(kind, *euro))[0] == "€"
    assert check(kind, ids_of(kind, *euro, *cut))[0] == "€" + CUT
    assert check(kind, ids_of(kind, "▁dog", *euro, *cut[:1], "▁dog"))[0] == f" dog€{CUT} dog"
    assert check(kind, ids_of(kind, *euro, *cut), "€") == ("", 3)


def test_a_byte_level_answer_is_what_transformers_decodes() -> None:
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer("naïve 🙂", add_special_tokens=False)["input_ids"]
    for cut in range(len(ids) + 1):
        assert text_of("byte-level")(ids[:cut]) == tokenizer.decode(ids[:cut])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_that_is_a_special_token_ends_the_answer_there(kind: str) -> None:
    user, tool = ids_of(kind, *SPECIAL[3:])
    words = tokenizer_of(kind)("the quick dog", add_special_tokens=False)["input_ids"]
    text = text_of(kind)(words)
    assert check(kind, [*words, user, *words]) == (text_of(kind)(words * 2), None), "no stop is asked for"
    assert check(kind, [*words, user, *words], "<|user|>") == (text, len(words) + 1)
    assert check(kind, [*words, tool, *words], "<|user|>", "<|tool name|>") == (text, len(words) + 1)
    assert check(kind, [user, user], "<|user|>") == ("", 1)
    # A stop around a special token: what is before it is a part of the stop.
    assert check(kind, [*words, user, *words], "g<|user|>") == (text[:-1], len(words) + 1)
    assert check(kind, [*words, tool, *words], "g<|user|>")[1] is None


@pytest.mark.parametrize("kind", ["byte-level", "llama-2"])
def test_a_special_tokens_name_in_plain_tokens_is_a_stop_too(kind: str) -> None:
    spelled = (
        ids_of(kind, *"<|user|>")
        if all(c in tokenizer_of(kind).get_vocab() for c in "<|user>")
        else (ids_of(kind, *(f"<0x{ord(c):02X}>" for c in "<|user|>")))
    )
    dog = tokenizer_of(kind)("dog", add_special_tokens=False)["input_ids"]
    text, ended = check(kind, [*dog, *spelled, *dog], "<|user|>")
    assert (text, ended) == (text_of(kind)(dog), len(dog) + len(spelled))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_without_text_do_not_hide_a_stop(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    (user,) = ids_of(kind, "<|user|>")
    words = tokenizer("the lazy dog", add_special_tokens=False)["input_ids"]
    beyond = len(tokenizer) + 7
    between = [token for word in words for token in (word, *[user] * 9, *[beyond] * 9)]
    text, ended = check(kind, between, "lazy dog")
    assert text.strip() == "the"
    assert ended is not None
    assert between[ended - 1] == words[-1]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_generation_stops_exactly_where_the_text_has_its_stop(kind: str, data: st.DataObject) -> None:
    tokenizer, text = tokenizer_of(kind), text_of(kind)
    tokens = st.one_of(st.integers(0, len(tokenizer) + 3), st.sampled_from([3, 4]))
    ids = data.draw(st.lists(tokens, min_size=1, max_size=30))
    whole = text(ids)
    begin = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    stop = whole[begin : begin + data.draw(st.integers(1, 6))].replace(CUT, "") or "x"
    cut, ended = check(kind, ids, stop)
    first = next((n for n in range(1, len(ids) + 1) if stop in text(ids[:n])), None)
    assert ended == first
    assert stop not in cut
    if first is not None:
        assert whole.startswith(cut)
        assert len(cut) == text(ids[:first]).index(stop)
    else:
        assert cut == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_may_be_part_of_the_text(kind: str) -> None:
    whole = "One two three two one."
    ids = tokenizer_of(kind)(whole, add_special_tokens=False)["input_ids"]
    text = text_of(kind)(ids)
    for stop in ("two", "three two", " one", "e t"):
        cut, ended = check(kind, ids, stop)
        with_it, ended_too = check(kind, ids, stop, include_stop_str_in_output=True)
        assert ended == ended_too
        assert with_it == cut + stop == text[: text.index(stop) + len(stop)]
    assert check(kind, ids, "nowhere", include_stop_str_in_output=True) == (text, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_among_the_least_tokens_is_text(kind: str) -> None:
    text, tokenizer = text_of(kind), tokenizer_of(kind)
    first = tokenizer("One two three", add_special_tokens=False)["input_ids"]
    ids = [*first, *tokenizer(" and two one.", add_special_tokens=False)["input_ids"]]
    whole = text(ids)
    assert check(kind, ids, "two")[0] == whole[: whole.index("two")]
    cut, ended = check(kind, ids, "two", min_tokens=len(first))
    assert cut == whole[: whole.rindex("two")]
    assert ended == next(n for n in range(len(first) + 1, len(ids) + 1) if text(ids[:n]).count("two") == 2)
    cut, _ = check(kind, ids, "two", min_tokens=len(first), include_stop_str_in_output=True)
    assert cut == whole[: whole.rindex("two") + 3]
    # One that ends behind the least tokens counts, wherever it begins.
    begin = whole.index("three")
    around = whole[begin : whole.index("and") + 3]
    assert check(kind, ids, around, min_tokens=len(first))[0] == whole[:begin]
    assert check(kind, ids, "two", min_tokens=len(ids)) == (whole, None)
