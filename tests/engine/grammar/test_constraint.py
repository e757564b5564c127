"""Constraints: which are taken, what a refusal names, and that random texts of one are what it asks for."""

from __future__ import annotations

import json
import random
import re

import pytest

from engine.grammar.constraint import constraint, field_of
from engine.grammar.errors import ConstraintError
from engine.grammar.schema import settled_schema
from tests.support.random_texts import random_text
from tests.support.schemas import REFUSED, SCHEMAS, check, closed

ELSEWHERE = ("minLength over maxLength", "nothing left", "an object that requires itself")


@pytest.mark.parametrize("part", range(4))
def test_random_texts_of_a_schema_are_valid(part: int) -> None:
    """A walk by the masks alone, without any model: what may come, comes."""
    for number, schema in enumerate(list(SCHEMAS.values())[part::4]):
        text = random_text(constraint("json", schema), random.Random(number))
        if text is not None:
            check(schema, text)


def test_there_are_enough_schemas_and_their_texts_end() -> None:
    assert len(SCHEMAS) >= 500
    for number, (name, schema) in enumerate(SCHEMAS.items()):
        if number % 40 == 0:
            assert random_text(constraint("json", schema), random.Random(number)) is not None, name


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_enforced_is_refused_by_name(name: str) -> None:
    schema, named = REFUSED[name]
    with pytest.raises(ConstraintError) as refusal:
        constraint("json", schema)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    # Wherever it stands. An alternative that nothing satisfies is none, and references are of their place.
    if isinstance(schema, dict) and "$ref" not in name and name not in ELSEWHERE:
        with pytest.raises(ConstraintError, match=re.escape(named.partition(" ")[0])):
            constraint("json", {"type": "object", "properties": {"x": {"anyOf": [{"const": 1}, schema]}},
                                "required": ["x"]})  # fmt: skip


def test_constants_are_not_schemas_and_formats_that_are_not_known_are_notes() -> None:
    odd = {"const": {"not": 1, "uniqueItems": True, "x-guidance": 2}}
    constraint("json", odd)
    assert settled_schema(odd) == odd
    constraint("json", {"default": {"$ref": "https://example.com"}, "examples": [10**40], "type": "null"})
    noted = {"properties": {"p": {"type": "string", "format": "path"}, "e": {"format": "email"}}}
    assert settled_schema(noted) == {"properties": {"p": {"type": "string"}, "e": {"format": "email"}}}
    assert settled_schema(json.loads("true")) == {}


def test_the_order_of_keys_is_kept_and_is_that_of_the_answer() -> None:
    def schema(*names: str) -> dict[str, object]:
        return closed({name: {"const": 1} for name in names})

    one, other = constraint("json", schema("b", "a")), constraint("json", schema("a", "b"))
    assert one != other
    assert random_text(one, random.Random(0)) == '{"b":1,"a":1}'
    assert random_text(other, random.Random(0)) == '{"a":1,"b":1}'


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{2,4}",
        "^yes|no$",
        "(?i:ab)c?",
        r"\d{3}-\w{2}",
        "a|bc|[^\\n]{1,3}",
        "é{2}☕",
        r"x\.y\s",
        "(a(b|c)){1,3}",
    ],
)
def test_texts_of_a_pattern_match_it_as_a_whole(pattern: str) -> None:
    for seed in range(12):
        text = random_text(constraint("regex", pattern), random.Random(seed))
        assert text is not None
        assert re.fullmatch(pattern, text), text


def test_choices_are_texts_whatever_they_hold() -> None:
    choices = ["yes", "no", 'it\'s "a" /b\\c/', "line\nend", "é☕ 😀", "[a-z]*", "<end>", " "]
    found = {random_text(constraint("choice", choices), random.Random(seed)) for seed in range(60)}
    assert found == set(choices)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('start: item ("," item)*\nitem: /[0-9]{1,2}/ | "none"', r"(\d{1,2}|none)(,(\d{1,2}|none))*"),
        ('root ::= "a" num | "b"\nnum ::= [0-9] [0-9]?', r"a\d\d?|b"),
        ('start: "select " NAME " from " NAME\nNAME: /[a-z]{1,5}/', r"select [a-z]{1,5} from [a-z]{1,5}"),
    ],
)
def test_texts_of_a_grammar_are_of_it(grammar: str, pattern: str) -> None:
    for seed in range(12):
        text = random_text(constraint("grammar", grammar), random.Random(seed))
        assert text is None or re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        ("regex", "(?=a)b", "look-ahead"),
        ("regex", "(", "regex"),
        ("regex", "", "empty"),
        ("regex", 3, "text"),
        ("choice", [], "choice"),
        ("choice", ["a", ""], "empty"),
        ("choice", ["a", 1], "texts"),
        ("choice", "a", "list"),
        ("grammar", "start: <|end|>", "special_token"),
        ("grammar", "start: <[5]>", "tokenizer"),
        ("grammar", 'start[temperature=0.5]: "a"', "temperature"),
        ("grammar", "start: a\na[max_tokens=3]: /x*/", "max_tokens"),
        ("grammar", "start: %json {}", "%json"),
        ("grammar", "%llguidance {}\nstart: /a/", "%llguidance"),
        ("grammar", "start: nothing", "nothing"),
        ("grammar", "((", "grammar"),
        ("json", float("nan"), "JSON"),
        ("json", {"const": "x" * 1_000_000}, "characters"),
    ],
)
def test_other_constraints_are_refused_by_name(kind, value, named: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(named)):
        constraint(kind, value)


def test_the_field_of_a_constraint() -> None:
    assert field_of(constraint("json", {})) == "response_format"
    assert field_of(constraint("regex", "a")) == "structured_outputs"
    assert json.loads(constraint("json", {"title": "é"})) == {"json": {"title": "é"}}
