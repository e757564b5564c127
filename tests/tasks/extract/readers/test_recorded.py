"""Settings and counts as tools record them: "not set" spelled out, numbers as text, tokens taken apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.extract.readers.recorded import recorded_settings
from tests.support.parsing import Outcome, read_records

WRAPPER = {"temperature": 1, "max_tokens": "Infinity", "top_p": 1}
WRAPPER |= {"frequency_penalty": 0, "presence_penalty": 0}
"""What Langfuse's wrapper of the OpenAI client records where the caller set nothing."""

BESIDE = {"input_cached_tokens": 1000, "output_reasoning_tokens": 5}


def langfuse(parameters: object, **more: Any) -> dict[str, Any]:
    record = {"type": "GENERATION", "traceId": "t", "id": "c", "startTime": "2026-03-01T08:30:00Z"}
    return {**record, "model": "m", "input": "Hi", "modelParameters": parameters, **more}


def settings_of(parameters: object) -> dict[str, Any]:
    (found,) = read_records([langfuse(parameters)])
    assert found["outcome"] is Outcome.REQUEST, found["field"]
    sampling = {name: value for name, value in (found["sampling"] or {}).items() if value is not None}
    return sampling if found["max_tokens"] is None else {**sampling, "max_tokens": found["max_tokens"]}


@pytest.mark.parametrize(
    "unset",
    [
        *("Infinity", "inf", "INF", "+inf", "None", "null", "", " ", "NaN", "undefined", "NOT_GIVEN", None),
        *(float("inf"), float("nan"), "<openai.NotGiven object at 0x7f0a>", "Omit()"),
    ],
)
def test_a_setting_that_was_not_set_is_not_set(unset: object) -> None:
    assert recorded_settings({"max_tokens": unset, "temperature": unset, "logprobs": unset}) == {}
    assert settings_of(json.dumps({"max_tokens": str(unset), "temperature": str(unset)})) == {}


def test_numbers_as_text_are_numbers() -> None:
    given = {"temperature": "0.7", "max_tokens": "64", "top_k": " 5 ", "seed": "-1", "stream": "True"}
    assert settings_of(given | {"stop": '["a", "b"]', "n": "2.0", "top_p": "1e-1"}) == {
        "temperature": 0.7,
        "max_tokens": 64,
        "top_k": 5,
        "seed": 2**64 - 1,
        "stop": ["a", "b"],
        "n": 2,
        "top_p": 0.1,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "many"),
        ("max_tokens", "-1"),
        ("max_tokens", "1e999"),
        ("temperature", "hot"),
        ("temperature", "1_0"),
        ("temperature", True),
        ("top_p", "0x1"),
    ],
)
def test_what_is_no_number_is_refused_by_name(field: str, value: object) -> None:
    (found,) = read_records([langfuse({field: value})])
    assert (found["outcome"], found["code"], found["field"]) == (Outcome.ERROR, "invalid_parameter", field)


def test_words_that_settings_may_have_are_kept() -> None:
    given = {"stop": "none", "user": "null", "tool_choice": "none"}
    assert recorded_settings(given) == given
    assert recorded_settings({"stop": "[END]"}) == {"stop": "[END]"}


def test_names_of_other_languages_are_read_unless_openai_s_is_there() -> None:
    assert recorded_settings({"maxTokens": "64", "topP": 0.5, "stopSequences": ["."]}) == {
        "max_tokens": 64,
        "top_p": 0.5,
        "stop": ["."],
    }
    assert recorded_settings({"maxTokens": 1, "max_tokens": 2}) == {"max_tokens": 2}
    assert recorded_settings({"maxTokens": 1, "max_tokens": "Infinity"}) == {"max_tokens": 1}


def test_defaults_that_a_wrapper_records_do_not_replace_the_run_s() -> None:
    assert settings_of(WRAPPER) == {}
    assert settings_of(json.dumps(WRAPPER)) == {}
    assert settings_of(WRAPPER | {"max_tokens": 20, "temperature": 0.5}) == {
        "max_tokens": 20,
        "temperature": 0.5,
    }
    completion_tokens = {name: value for name, value in WRAPPER.items() if name != "max_tokens"}
    assert settings_of(completion_tokens | {"max_completion_tokens": 9}) == {"max_tokens": 9}
    # Of a tool that records what was set, the value was set.
    assert settings_of({"temperature": 1, "max_tokens": 20}) == {"temperature": 1.0, "max_tokens": 20}
    (found,) = read_records([langfuse(WRAPPER | {"presence_penalty": 0.5})])
    assert (found["outcome"], found["settings_json"]) == (Outcome.REQUEST, '{"presence_penalty":0.5}')


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input": 7, "output": 2, "total": 1014, **BESIDE}, (1007, 7)),
        ({"input": 7, "output": 2, **BESIDE}, (1007, 7)),
        ({"input": 1007, "output": 7, "total": 1014, **BESIDE}, (1007, 7)),
        ({"input": 7, "output": 7, "total": 1014, **BESIDE}, (1007, 7)),
        (
            {"input": 7, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 10, "output": 2},
            (107, 2),
        ),
        ({"input": 7, "output": 2, "total": 9}, (7, 2)),
        ({"input_cached_tokens": 40, "output": 2}, (40, 2)),
        ({"promptTokens": 7, "completionTokens": 2, "totalTokens": 9}, (7, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2}, (7, 2)),
        ({"input_tokens": 7, "output_tokens": 2, "cache_read_input_tokens": 3}, (10, 2)),
        ({"input": "7", "output": "2", "input_cached_tokens": "3"}, (10, 2)),
    ],
)
def test_tokens_that_were_put_beside_are_added(usage: dict[str, Any], expected: tuple[int, int]) -> None:
    for given in ({"usageDetails": usage}, {"usage_details": json.dumps(usage)}, {"usage": usage}):
        (found,) = read_records([langfuse({}, input=None, **given)])
        assert (found["input_tokens"], found["observed_output_tokens"]) == expected


def test_usage_in_characters_is_no_length() -> None:
    (found,) = read_records([langfuse({}, input=None, usage={"input": 70, "unit": "CHARACTERS"})])
    assert (found["outcome"], found["field"]) == (Outcome.QUARANTINED, "input")


def test_other_bodies_in_observations() -> None:
    river = [{"role": "user", "content": "Name a river."}]
    brief = [{"role": "system", "content": "Be brief."}, *river]
    parts = [{"type": "input_text", "text": "Name a river."}]
    for given, messages in [
        ({"contents": [{"role": "user", "parts": [{"text": "Name a river."}]}]}, river),
        ({"system": "Be brief.", "messages": river}, brief),
        ({"instructions": "Be brief.", "input": "Name a river."}, brief),
        ([{"type": "message", "role": "user", "content": parts}], river),
        (["Name a river."], river),
    ]:
        (found,) = read_records([langfuse({"max_output_tokens": 9}, input=given)])
        assert (json.loads(found["messages_json"]), found["max_tokens"]) == (messages, 9)
