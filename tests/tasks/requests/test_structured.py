"""What a body asks its answer to be: every field that says so, refusals by name, and who shares an answer."""

from __future__ import annotations

import json

import pytest

from tasks.base.errors import ErrorCode, RequestError
from tasks.requests.bodies import BodyReader
from tasks.requests.sampling import SamplingDefaults, check_supported, engine_sampling, explicit_sampling
from tasks.requests.structured import FIELDS, constraint_of
from tests.support.schemas import REFUSED

SCHEMA = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}}}
AS_JSON = json.dumps({"json": SCHEMA}, separators=(",", ":"))
OBJECT = '{"json":{"type":"object"}}'


def strict(**given):
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **given}}
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        (dict.fromkeys(FIELDS), None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": {"json": None, "json_object": False, "disable_any_whitespace": True}}, None),
        ({"response_format": {"type": "json_object"}}, OBJECT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, AS_JSON),
        (strict(strict=True, description="d"), AS_JSON),
        (strict(strict=False), AS_JSON),
        (strict(strict=None), AS_JSON),
        ({"guided_json": SCHEMA}, AS_JSON),
        ({"guided_json": json.dumps(SCHEMA)}, AS_JSON),
        ({"structured_outputs": {"json": SCHEMA, "disable_additional_properties": False}}, AS_JSON),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, AS_JSON),
        ({"structured_outputs": {"json_object": True}}, OBJECT),
        ({"guided_regex": "a+"}, '{"regex":"a+"}'),
        ({"structured_outputs": {"regex": "a+"}}, '{"regex":"a+"}'),
        ({"guided_choice": ["x", "y"]}, '{"choice":["x","y"]}'),
        ({"structured_outputs": {"choice": ["x", "y"]}}, '{"choice":["x","y"]}'),
        ({"guided_grammar": 'start: "a"'}, '{"grammar":"start: \\"a\\""}'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, '{"grammar":"start: \\"a\\""}'),
    ],
)
def test_every_field_comes_to_a_constraint(body, expected: str | None) -> None:
    check_supported({"messages": [], **body}, "chat")
    assert constraint_of(body) == expected
    for endpoint in ("chat", "completions"):
        assert explicit_sampling(body, endpoint).get("constraint") == expected


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({"response_format": {"type": "structural_tag"}}, "unsupported", "type"),
        ({"response_format": {"type": "json_object", "x": 1}}, "unsupported", "x"),
        ({"response_format": "json"}, "unsupported", "no schema"),
        ({"response_format": 1}, "invalid", "object"),
        ({"response_format": {"type": "json_schema"}}, "invalid", "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "invalid", "schema"),
        (strict(other=1), "unsupported", "other"),
        ({"guided_json": "{"}, "invalid", "JSON"),
        ({"guided_regex": 1}, "unsupported", "text"),
        ({"guided_choice": []}, "unsupported", "choice"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "invalid", "json and regex"),
        ({"structured_outputs": {"json_object": 1}}, "invalid", "json_object"),
        ({"structured_outputs": {"structural_tag": "x"}}, "unsupported", "structural_tag"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "unsupported", "whitespace_pattern"),
        (
            {"structured_outputs": {"disable_additional_properties": True}},
            "unsupported",
            "disable_additional",
        ),
        ({"structured_outputs": [1]}, "invalid", "object"),
        ({"guided_regex": "a", "guided_json": {}}, "invalid", "guided_json"),
    ],
)
def test_what_means_nothing_or_is_not_done_is_refused(body, code: str, named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        explicit_sampling(body)
    assert caught.value.code is ErrorCode(f"{code}_parameter")
    assert caught.value.field in body


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_schema_that_cannot_be_enforced_names_its_keyword(name: str) -> None:
    schema, named = REFUSED[name]
    fields = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "guided_json": schema,
        "structured_outputs": {"json": schema},
    }
    for field, value in fields.items():
        if isinstance(schema, str):
            continue
        with pytest.raises(RequestError) as caught:
            explicit_sampling({field: value})
        assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED_PARAMETER, field)
        assert named in caught.value.message


def test_the_constraint_is_part_of_who_a_request_is() -> None:
    read = BodyReader(SamplingDefaults()).read
    prompt = {"messages": [{"role": "user", "content": "x"}]}
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}

    def keys(*bodies):
        lines = [read({}, "chat", "c", prompt | body) for body in bodies]
        assert [line.error for line in lines] == [None] * len(bodies)
        return len({line.answer_key for line in lines}), len({line.body for line in lines})

    # The order of a schema's keys is that of the answer's.
    assert keys({}, {"guided_json": SCHEMA}, {"guided_json": turned}, {"guided_regex": "a"}) == (4, 4)
    # Two ways to say the same thing share an answer, and are two bodies.
    assert keys({"guided_json": SCHEMA}, strict(), strict(strict=True)) == (1, 3)
    # What has none keeps the key that it had.
    assert keys({}, {"response_format": {"type": "text"}}, {"guided_json": None}) == (1, 3)


def test_the_engine_gets_it() -> None:
    row = {"request_id": "r", "max_tokens": None, "sampling": {"constraint": '{"regex":"a"}'}}
    assert engine_sampling(row, SamplingDefaults(), 1)["constraint"] == '{"regex":"a"}'
    assert engine_sampling({**row, "sampling": None}, SamplingDefaults(), 1)["constraint"] is None
