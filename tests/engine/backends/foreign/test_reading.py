"""Answers of engines by others, read as our own engine's."""

from __future__ import annotations

import json
import random

import pytest
from llguidance import LLMatcher, grammar_from
from transformers import AutoTokenizer

from engine.backends.foreign.reading import Answered, AnswerReader
from engine.grammar.constraint import as_lark, constraint
from engine.models.config import load_config
from engine.runtime.sample.settings import Sampling
from tests.support.paths import DEMO_MODEL
from tests.support.random_texts import demo_vocabulary, random_text
from tests.support.schemas import SCHEMAS

TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)
CONFIG = load_config(DEMO_MODEL)
END = CONFIG.stop_token_ids[0]
NUMBER = constraint("regex", "[0-9]{2,}")
YES_NO = constraint("choice", ["yes", "no"])
OTHERS = {
    "pattern": constraint("regex", r"\w+(::=)? [a-c]+"),
    "choice": constraint("choice", ["a ::= b", 'say "x"', "é\n"]),
    "lark": constraint("grammar", 'start: "::=" NUMBER\nNUMBER: /[0-9]+/'),
    "gbnf": constraint("grammar", 'root ::= "a" [0-9]+'),
}


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def read(settings: Sampling, ids: list[int], text: str = "its own", reason: str = "length"):
    return AnswerReader([Sampling(9), settings], TOKENIZER, CONFIG.vocab_size, CONFIG.stop_token_ids).read(
        1, ids, text, reason
    )


def test_without_stops_and_constraints_it_is_as_the_engine_tells_it() -> None:
    assert read(Sampling(9), [5, 6], "text", "stop") == Answered([5, 6], "text", "stop")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"stop": (" 5", " 7")}, "4"),
        ({"stop": (" 5", " 7"), "include_stop_str_in_output": True}, "4 5"),
        ({"stop": (" 5", " 7"), "min_tokens": 3}, "4 5 6"),
    ],
)
def test_the_text_ends_at_the_stop_string_that_counts(settings: dict, expected: str) -> None:
    ids = ids_of("4 5 6 7")
    assert len(ids) == 4
    assert read(Sampling(40, **settings), ids, reason="stop") == Answered(ids, expected, "stop")


def test_an_answer_that_is_complete_ends_there_whatever_the_engine_took_for_it() -> None:
    settings, yes = Sampling(40, constraint=YES_NO), ids_of("yes")
    complete = Answered(yes, "yes", "stop")
    assert read(settings, [*yes, END], reason="stop") == complete
    # As many tokens as it may have: it has ended all the same.
    assert read(settings, yes) == complete
    assert read(settings, yes[:-1]) == Answered(yes[:-1], TOKENIZER.decode(yes[:-1]), "length")


def test_a_token_that_ends_an_answer_which_could_go_on_is_part_of_it() -> None:
    ids = [*ids_of("123"), END]
    assert read(Sampling(40, constraint=NUMBER), ids, reason="stop") == Answered(ids, "123", "stop")


@pytest.mark.parametrize("text", ["maybe", "yes!", "1", "yes yes"])
def test_an_answer_that_is_not_what_was_asked_for_is_none(text: str) -> None:
    found = read(Sampling(40, constraint=YES_NO), ids_of(text), reason="stop")
    assert found == "its answer is not what its constraint asks for"


@pytest.mark.parametrize("part", range(4))
def test_in_lark_a_constraint_means_the_same(part: int) -> None:
    """As engines by others take it: what is not Lark by its looks would be read as another language."""
    schemas = [constraint("json", schema) for schema in list(SCHEMAS.values())[part::24]]
    for number, one in enumerate([*schemas, *list(OTHERS.values())[part : part + 1]]):
        text = random_text(one, random.Random(number))
        matcher = LLMatcher(demo_vocabulary(), grammar_from("grammar", as_lark(one)), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        if text is None:
            continue
        assert matcher.consume_tokens(demo_vocabulary().tokenize_str(text)), (one, text)
        assert matcher.is_accepting(), (one, text)


def test_in_lark_json_has_no_white_space_and_one_spelling() -> None:
    lark = as_lark(constraint("json", {"type": "object", "properties": {"a": {"type": "string"}}}))
    for text, holds in (('{"a":"x::=y"}', True), ('{"a": "x"}', False), ('{"a":"\\u0078"}', False)):
        matcher = LLMatcher(demo_vocabulary(), grammar_from("grammar", lark), log_level=0)
        assert matcher.consume_tokens(demo_vocabulary().tokenize_str(text)) is holds
    assert "\n" not in json.dumps(lark.splitlines()[1])
