from __future__ import annotations

from typing import Any

import pytest

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.base.identity import answer_key, default_seed
from tasks.requests.sampling import (
    HONOURED,
    NEUTRAL,
    OFF,
    WITHOUT_EFFECT,
    SamplingDefaults,
    check_supported,
    effective_sampling,
    engine_sampling,
    explicit_sampling,
    shares_answer,
)

DEFAULTS = SamplingDefaults()


def test_unset_settings_take_the_run_default_not_openai_s() -> None:
    for body in ({}, {"temperature": None, "max_tokens": None}):
        assert explicit_sampling(body) == {}
        assert effective_sampling(explicit_sampling(body), DEFAULTS) == {
            "max_tokens": 256,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "stop": [],
            "stop_token_ids": [],
            "ignore_eos": False,
        }


def test_given_settings_are_normalised() -> None:
    body = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": -1,
        "seed": -1,
        "stop": "x",
        "stop_token_ids": [3, 3],
        "max_completion_tokens": 7.0,
        "ignore_eos": True,
    }
    assert explicit_sampling(body) == {
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 0,
        "seed": 2**64 - 1,
        "stop": ["x"],
        "stop_token_ids": [3],
        "max_tokens": 7,
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", float("inf")),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("seed", "7"),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("max_completion_tokens", True),
        ("stop", [""]),
        ("stop", ""),
        ("stop", 5),
        ("stop", ["a"] * 17),
        ("stop", ["a" * 1001]),
        ("stop_token_ids", 5),
        ("stop_token_ids", [-1]),
        ("ignore_eos", 1),
        ("n", 0),
        ("n", 129),
        ("n", True),
        ("n", "2"),
        ("logprobs", 2),
        ("logprobs", "true"),
        ("top_logprobs", 2),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        explicit_sampling({field: value})
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_PARAMETER, field)


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("chat", {"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ("chat", {"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ("completions", {"logprobs": True}, "logprobs"),
        ("completions", {"logprobs": 21}, "logprobs"),
        ("completions", {"logprobs": -1}, "logprobs"),
        ("completions", {"logprobs": 2, "top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_logprobs_of_the_wrong_form_are_refused_by_name(endpoint, body: dict, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        explicit_sampling(body, endpoint)
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_PARAMETER, field)


def test_choices_and_logprobs_in_one_form() -> None:
    for off in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0, "n": 1}):
        assert explicit_sampling(off) == explicit_sampling(off, "completions") == {}
    assert explicit_sampling({"n": 3.0, "logprobs": True}) == {"n": 3, "logprobs": 0}
    assert explicit_sampling({"logprobs": True, "top_logprobs": 20}) == {"logprobs": 20}
    assert explicit_sampling({"logprobs": 0}, "completions") == {"logprobs": 0}
    assert explicit_sampling({"logprobs": 5, "n": 128}, "completions") == {"logprobs": 5, "n": 128}


def test_best_of_is_neutral_where_it_equals_n() -> None:
    check_supported({"n": 3, "best_of": 3}, "completions")
    for body in ({"n": 3, "best_of": 1}, {"n": 3, "best_of": 4}, {"best_of": 3}):
        with pytest.raises(RequestError, match="not supported"):
            check_supported(body, "completions")


def test_two_names_of_one_setting_must_agree() -> None:
    assert explicit_sampling({"max_tokens": 5, "max_completion_tokens": 5}) == {"max_tokens": 5}
    with pytest.raises(RequestError, match="differ"):
        explicit_sampling({"max_tokens": 5, "max_completion_tokens": 6})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{}]),
        ("response_formats", {"type": "json_object"}),
        ("best_of", 2),
        ("suffix", "x"),
        ("echo", True),
        ("something_new", 1),
        ("prompt", "x"),
    ],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        check_supported({"model": "m", "messages": [], field: value}, "chat")
    assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED_PARAMETER, field)


def test_neutral_values_and_fields_without_effect_pass() -> None:
    for field, values in NEUTRAL.items():
        for value in (None, *values):
            check_supported({field: value}, "completions")
    check_supported(dict.fromkeys(WITHOUT_EFFECT | HONOURED, "anything"), "chat")
    check_supported({"unknown": None}, "chat")
    for field, value in [
        ("extra_body", {}),
        ("priority", 0),
        ("include_stop_str_in_output", False),
        ("guardrails", []),
        ("detokenize", True),
    ]:
        check_supported({field: value}, "chat")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extra_body", {"top_a": 1}),
        ("priority", False),
        ("priority", 1),
        ("no_stop_trim", True),
        ("no_stop_trim", 0),
        ("detokenize", False),
        ("web_search_options", {}),
        ("thinking", {}),
    ],
)
def test_what_is_not_off_is_refused(field: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        check_supported({field: value}, "chat")
    assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED_PARAMETER, field)


def test_special_tokens_are_added_as_the_endpoint_does() -> None:
    check_supported({"add_special_tokens": True}, "completions")
    check_supported({"add_special_tokens": False}, "chat")
    for value, endpoint in ((False, "completions"), (True, "chat")):
        with pytest.raises(RequestError, match="would change the answer"):
            check_supported({"add_special_tokens": value}, endpoint)


def test_the_first_refused_field_does_not_depend_on_order() -> None:
    for names in (["tools", "echo"], ["echo", "tools"]):
        with pytest.raises(RequestError) as caught:
            check_supported(dict.fromkeys(names, "x"), "chat")
        assert caught.value.field == "echo"


def test_engine_settings_are_complete_and_seeded() -> None:
    row = {"request_id": "r", "max_tokens": 5, "sampling": {"temperature": 0.5, "seed": None, "stop": None}}
    settings = engine_sampling(row, DEFAULTS, 3)
    assert settings == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "seed": default_seed("r", 3),
        "stop": [],
        "stop_token_ids": [],
        "ignore_eos": False,
        "n": 1,
        "logprobs": None,
        "constraint": None,
    }
    assert engine_sampling({"request_id": "r", "max_tokens": None, "sampling": None}, DEFAULTS, 3)[
        "max_tokens"
    ] == (256)
    row["sampling"]["seed"] = 9
    assert engine_sampling(row, DEFAULTS, 3)["seed"] == 9


def test_answers_are_shared_only_if_greedy_or_seeded() -> None:
    warm = SamplingDefaults(temperature=1.0)
    assert shares_answer({}, DEFAULTS)
    assert not shares_answer({}, warm)
    assert shares_answer({"seed": 0}, warm)
    assert not shares_answer({"temperature": 0.1}, DEFAULTS)
    assert shares_answer({"temperature": 0.0}, warm)


def test_defaults_out_of_range_name_their_option() -> None:
    with pytest.raises(ConfigurationError, match="--max-tokens"):
        SamplingDefaults(max_tokens=0)
    with pytest.raises(ConfigurationError, match="--top-p"):
        SamplingDefaults(top_p=0.0)


def test_settings_that_change_logits_are_kept_only_where_they_ask_for_something() -> None:
    off = {name: value for name, value in OFF.items() if isinstance(value, int | float)} | {"logit_bias": {}}
    assert explicit_sampling(off | {"chat_template_kwargs": {}, "reasoning_effort": None}) == {}
    assert explicit_sampling({"logit_bias": []}) == {}
    assert explicit_sampling(
        {"presence_penalty": 1, "frequency_penalty": -0.5, "repetition_penalty": 1.2, "min_p": 0.1}
        | {"min_tokens": 3.0, "logit_bias": {"11": -100, "5": 2, "7": 0}, "include_stop_str_in_output": True}
    ) == {
        "presence_penalty": 1.0,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.2,
        "min_p": 0.1,
        "min_tokens": 3,
        "logit_bias": "[[5,2.0],[11,-100.0]]",
        "include_stop_str_in_output": True,
    }
    assert explicit_sampling({"echo": True}, "completions") == {"echo": True}
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    assert explicit_sampling(kwargs) == {
        "chat_template_kwargs": '{"enable_thinking":false,"reasoning_effort":"low"}'
    }
    assert explicit_sampling({"add_generation_prompt": False}) == {
        "chat_template_kwargs": '{"add_generation_prompt":false}'
    }
    assert explicit_sampling({"add_generation_prompt": False, "continue_final_message": True}) == {}


def test_each_of_them_is_part_of_what_an_answer_is_known_by() -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"presence_penalty": 1},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1},
        {"repetition_penalty": 1.5},
        {"min_p": 0.5},
        {"min_tokens": 1},
        {"logit_bias": {"1": 1}},
        {"include_stop_str_in_output": True},
        {"chat_template_kwargs": {"a": 1}},
        {"reasoning_effort": "low"},
        {"add_generation_prompt": False},
    ]
    settings = [effective_sampling(explicit_sampling(body), SamplingDefaults()) for body in asked]
    assert len({answer_key("chat", "c", one) for one in settings}) == len(asked)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999999999999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": 1, "01": 2}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"reasoning_effort": "most"}, "reasoning_effort"),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            "reasoning_effort",
        ),
        ({"add_generation_prompt": 0}, "add_generation_prompt"),
        ({"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        explicit_sampling(body)
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_PARAMETER, field)


def test_fields_of_one_endpoint_are_refused_at_the_other() -> None:
    for field, value, endpoint in [
        ("echo", True, "chat"),
        ("chat_template_kwargs", {"a": 1}, "completions"),
        ("reasoning_effort", "low", "completions"),
        ("add_generation_prompt", False, "completions"),
    ]:
        with pytest.raises(RequestError) as caught:
            check_supported({field: value}, endpoint)
        assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED_PARAMETER, field)
    with pytest.raises(RequestError, match="of the prompt"):
        explicit_sampling({"echo": True, "logprobs": 1}, "completions")
