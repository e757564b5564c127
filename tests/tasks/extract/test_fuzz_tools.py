"""Records of the tools' formats, mutated in 30 ways: each ends as a request, an error, or with a reason."""

from __future__ import annotations

import copy
import json
import random
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tasks.base.errors import ErrorCode, QuarantineCode
from tasks.extract.readers.registry import READERS
from tests.support.log_samples import FORMAT, SAMPLES, TABLES_OF_TEXT
from tests.support.parsing import Outcome, read_records

if TYPE_CHECKING:
    from collections.abc import Callable

FUZZED = {**SAMPLES, "canonical": read_records(SAMPLES["openai-batch"])}
"""Nightblend's own table holds what became of records."""
ROUNDS = 5
SENT = {
    "openai-batch",
    "openai-body",
    "openai-responses",
    "anthropic-batch",
    "gemini-batch",
    "bedrock",
    "sharegpt",
    "canonical",
}
"""Formats that senders write themselves, and our own: whatever they say is the prompt."""
WITH_ZERO = {"openai-output", *TABLES_OF_TEXT}
"""Formats in which a prompt may have no token."""
CODES = {code.value for code in (*ErrorCode, *QuarantineCode)}

Holder = dict[str, Any] | list[Any]
Place = tuple[Holder, Any]


def places(value: object) -> list[Place]:
    """Return every place of a record: the object or list that holds it, and its name there."""
    found: list[Place] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found.append((value, name))  # type: ignore[arg-type]
        found += places(item)
    return found


def put(make: Callable[[random.Random, Any], Any]) -> Callable[[random.Random, dict[str, Any]], None]:
    """Replace the value at one place."""

    def mutate(rng: random.Random, record: dict[str, Any]) -> None:
        holder, name = rng.choice(places(record))
        holder[name] = make(rng, holder[name])

    return mutate


def drop(rng: random.Random, record: dict[str, Any]) -> None:
    holder, name = rng.choice(places(record))
    del holder[name]


def rename(rng: random.Random, record: dict[str, Any]) -> None:
    holder, name = rng.choice([place for place in places(record) if isinstance(place[0], dict)])
    holder[f"{name}x"] = holder.pop(name)


def swap(rng: random.Random, record: dict[str, Any]) -> None:
    (left, one), (right, other) = rng.choice(places(record)), rng.choice(places(record))
    left[one], right[other] = copy.deepcopy(right[other]), copy.deepcopy(left[one])


def add(field: str, value: object) -> Callable[[random.Random, dict[str, Any]], None]:
    """Add a field to one of the objects of a record."""

    def mutate(rng: random.Random, record: dict[str, Any]) -> None:
        objects = [record, *(h[n] for h, n in places(record) if isinstance(h[n], dict))]
        rng.choice(objects)[field] = value

    return mutate


def in_text(change: Callable[[random.Random, str], str]) -> Callable[[random.Random, dict[str, Any]], None]:
    """Change one of the texts of a record: many hold JSON."""

    def mutate(rng: random.Random, record: dict[str, Any]) -> None:
        texts = [place for place in places(record) if isinstance(place[0][place[1]], str)]
        if texts:
            some = rng.sample(texts, min(3, len(texts)))
            holder, name = max(some, key=lambda place: len(place[0][place[1]]))
            holder[name] = change(rng, holder[name])

    return mutate


KINDS: dict[str, Callable[[random.Random, dict[str, Any]], None]] = {
    "untouched": lambda _rng, _record: None,
    "dropped": drop,
    "renamed": rename,
    "swapped": swap,
    "null": put(lambda _, __: None),
    "true": put(lambda _, __: True),
    "false": put(lambda _, __: False),
    "zero": put(lambda _, __: 0),
    "number": put(lambda rng, _old: rng.choice([-1, 7, 2**31, 2**63, 2**64 + 1])),
    "fraction": put(lambda rng, _old: rng.choice([0.5, -1.5, 1e300])),
    "text": put(lambda _, __: "some text"),
    "empty text": put(lambda _, __: ""),
    "number as text": put(lambda _, __: "12"),
    "words for unset": put(lambda rng, _old: rng.choice(["None", "Infinity", "null", "NaN"])),
    "empty list": put(lambda _, __: []),
    "empty object": put(lambda _, __: {}),
    "in a list": put(lambda _, old: [old]),
    "in two lists": put(lambda _, old: [[old]]),
    "in an object": put(lambda _, old: {"value": old}),
    "as JSON text": put(lambda _, old: json.dumps(old, default=str)),
    "doubled": put(lambda _, old: old * 2 if isinstance(old, list | str) else [old, old]),
    "list of numbers": put(lambda _, __: [1, 2]),
    "list of nulls": put(lambda _, __: [None]),
    "list of empty objects": put(lambda _, __: [{}]),
    "odd names": put(lambda _, __: {"": 1, "0": {"a.b": [None]}, "type": 5, "role": [], "content": {}}),
    "null character": put(lambda _, __: "\x00"),
    "stand-in": put(lambda _, __: "redacted-by-litellm"),
    "tools": add("tools", [{"type": "function", "function": {"name": "f"}}]),
    "unknown field": add("no_such_field", {"a": 1}),
    "second prompt": add("prompt", "Once"),
    "second messages": add("messages", [{"role": "user", "content": "Hi"}]),
    "second parts": add("parts", [{"text": "Hi"}]),
    "cut text": in_text(lambda rng, old: old[: rng.randint(0, len(old))]),
    "flipped text": in_text(lambda rng, old: old.replace(rng.choice(old or "x"), rng.choice('{}[]":,'), 1)),
}


def texts_of(value: object) -> list[str]:
    """Return all texts of a record, those inside of JSON texts too."""
    if isinstance(value, str):
        try:
            inner = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
        return [value, *(texts_of(inner) if not isinstance(inner, str) else [inner])]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_of(item)]
    return []


def test_no_format_is_left_out() -> None:
    assert {FORMAT.get(name, name) for name in FUZZED} == READERS.keys()
    assert len(KINDS) >= 30


@pytest.mark.parametrize("name", FUZZED)
def test_every_mutation_ends_with_a_reason(name: str) -> None:
    rng = random.Random(f"tools {name}")
    reader = READERS[FORMAT.get(name, name)]
    outcomes = set()
    for kind, mutate in KINDS.items():
        records = []
        for _ in range(ROUNDS):
            for sample in FUZZED[name]:
                record = copy.deepcopy(sample)
                mutate(rng, record)
                records.append(record)
        for record, found in zip(records, read_records(records, reader), strict=True):
            outcome = found["outcome"]
            outcomes.add(outcome)
            if outcome is Outcome.FILTERED:
                assert found["reason"], (kind, record)
            elif outcome is not Outcome.REQUEST:
                assert found["code"] in CODES, (kind, record)
            elif found["block_size"]:
                assert found["input_tokens"] >= (0 if name in WITH_ZERO else 1), (kind, record)
            else:
                check_prompt(found, record, kind)
    assert Outcome.REQUEST in outcomes
    # Most records have a name: what is no request is an error under it.
    assert outcomes & {Outcome.ERROR, Outcome.QUARANTINED}
    assert len(KINDS) >= 30


def check_prompt(found: dict[str, Any], record: dict[str, Any], kind: str) -> None:
    """Whatever is answered stands in the record, and is no stand-in."""
    given = "\0".join(texts_of(record))
    if found["messages_json"] is None:
        asked = [found["prompt"]] if found["prompt"] is not None else []
    else:
        asked = [message["content"] or "" for message in json.loads(found["messages_json"])]
    for text in asked:
        if text not in given:
            # Parts, joined.
            assert any(part and text.startswith(part) for part in given.split("\0")), (kind, record)
        assert text.strip() != "redacted-by-litellm" or found["format"] in SENT, (kind, record)
