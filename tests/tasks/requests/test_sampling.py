from __future__ import annotations

import pytest

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.base.identity import default_seed
from tasks.requests.sampling import (
    HONOURED,
    NEUTRAL,
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
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_formats", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -1),
        ("best_of", 2),
        ("suffix", "x"),
        ("echo", True),
        ("min_p", 0.1),
        ("repetition_penalty", 1.1),
        ("reasoning_effort", "high"),
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
        ("include_stop_str_in_output", True),
        ("include_stop_str_in_output", 0),
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
