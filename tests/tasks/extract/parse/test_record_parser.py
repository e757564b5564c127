from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base.errors import ErrorCode, QuarantineCode
from tasks.base.schema import CONTENT_ALTERNATIVES, SCHEMAS
from tasks.requests.sampling import SamplingDefaults
from tests.support.parsing import Outcome, parse_lines

DAY = date(2026, 3, 1)
DEFAULTS = SamplingDefaults()
TABLE = {Outcome.REQUEST: "requests", Outcome.ERROR: "errors", Outcome.QUARANTINED: "quarantine"}
TEXT_PART = {"type": "text", "text": "b"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "x"}}


def chat(custom_id: object = "a", /, **body: object) -> dict:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def completion(prompt: object, /, **body: object) -> dict:
    return {"custom_id": "a", "url": "/v1/completions", "body": {"model": "m", "prompt": prompt} | body}


def parse(*records: object, **settings: object) -> list[tuple[Outcome, dict | None]]:
    data = b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records)
    place = ("job", DAY, settings.pop("source_uri", "s3://b/o"))
    defaults = settings.pop("defaults", DEFAULTS)
    found = list(parse_lines(data, place, defaults, max_line_bytes=1 << 16, **settings))
    for outcome, row in found:
        if row is not None:
            pa.Table.from_pylist([row], schema=SCHEMAS[TABLE[outcome]]).validate(full=True)
    return found


def request(record: dict, **settings: object) -> dict:
    ((outcome, row),) = parse(record, **settings)
    assert outcome is Outcome.REQUEST, row
    assert row is not None
    assert sum(row.get(name) is not None for name in CONTENT_ALTERNATIVES) == 1
    return row


def refusal(record: dict) -> tuple[str, str | None]:
    ((outcome, row),) = parse(record)
    assert outcome is Outcome.ERROR
    assert row is not None
    assert len(row["request_id"]) == len(row["answer_key"]) == 64
    return row["code"], row["field"]


def reason(record: object) -> tuple[str, str | None]:
    ((outcome, row),) = parse(record)
    assert outcome is Outcome.QUARANTINED
    assert row is not None
    return row["code"], row["field"]


def test_a_chat_request() -> None:
    row = request(
        chat("x", metadata={"workload": "w", "tenant": "t"}, user="u", max_tokens=5, temperature=0.5, seed=1)
        | {"extra": 1}
    )
    assert (row["custom_id"], row["endpoint"], row["requested_model"]) == ("x", "chat", "m")
    assert (row["workload"], row["tenant"], row["source_line"]) == ("w", "t", 1)
    assert json.loads(row["messages_json"]) == [{"role": "user", "content": "hi"}]
    assert (row["max_tokens"], row["sampling"]) == (5, {"seed": 1, "temperature": 0.5})
    assert json.loads(row["passthrough_json"]) == {
        "envelope": {"extra": 1},
        "body": {"user": "u", "metadata": {"workload": "w", "tenant": "t"}},
    }


def test_unset_is_null() -> None:
    row = request(chat("x"))
    assert (row["max_tokens"], row["sampling"], row["passthrough_json"]) == (None, None, None)
    assert (row["workload"], row["tenant"]) == ("default", None)
    assert request(chat("x", metadata={"workload": 5}))["workload"] == "default"


def test_completions() -> None:
    assert request(completion("text"))["prompt"] == "text"
    assert request(completion(["text"]))["prompt"] == "text"
    assert request(completion([1, 2]))["token_ids"] == [1, 2]
    assert request(completion([[1, 2]]))["token_ids"] == [1, 2]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (["a", "b"], ErrorCode.UNSUPPORTED_PARAMETER),
        ([[1], [2]], ErrorCode.UNSUPPORTED_PARAMETER),
        ("", ErrorCode.EMPTY_PROMPT),
        ([], ErrorCode.EMPTY_PROMPT),
        ([[]], ErrorCode.EMPTY_PROMPT),
        (None, ErrorCode.MISSING_PARAMETER),
        (5, ErrorCode.INVALID_PARAMETER),
        ([1, "a"], ErrorCode.INVALID_PARAMETER),
        ([True], ErrorCode.INVALID_PARAMETER),
        ([-1], ErrorCode.INVALID_PARAMETER),
        ([2**31], ErrorCode.INVALID_PARAMETER),
    ],
)
def test_prompts_that_cannot_be_answered(prompt: object, code: str) -> None:
    assert refusal(completion(prompt)) == (code, "prompt")


@pytest.mark.parametrize(
    ("messages", "code", "field"),
    [
        (None, "missing_parameter", "messages"),
        ([], "empty_prompt", "messages"),
        ("hi", "invalid_parameter", "messages"),
        (["hi"], "invalid_parameter", "messages[0]"),
        ([{"content": "x"}], "invalid_parameter", "messages[0].role"),
        ([{"role": "king", "content": "x"}], "invalid_parameter", "messages[0].role"),
        ([{"role": "function", "name": "f", "content": "x"}], "unsupported_parameter", "messages[0].role"),
        ([{"role": "user"}], "invalid_parameter", "messages[0].content"),
        ([{"role": "user", "content": 5}], "invalid_parameter", "messages[0].content"),
        (
            [{"role": "user", "content": [IMAGE_PART]}],
            "unsupported_parameter",
            "messages[0].content[0].image_url.url",
        ),
        ([{"role": "user", "content": ["x"]}], "invalid_parameter", "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": None}]}],
            "invalid_parameter",
            "messages[0].content[0].text",
        ),
        (
            [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
            "unsupported_parameter",
            "messages[0].tool_calls",
        ),
        ([{"role": "user", "content": "x", "name": 5}], "invalid_parameter", "messages[0].name"),
    ],
)
def test_messages_that_cannot_be_answered(messages: object, code: str, field: str) -> None:
    assert refusal(chat("a", messages=messages)) == (code, field)


def test_text_parts_are_joined_and_unset_fields_of_history_pass() -> None:
    plain = [{"role": "assistant", "content": "ab"}, {"role": "user", "content": "b"}]
    parts = [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a"}, TEXT_PART],
            "tool_calls": None,
            "annotations": [],
        },
        {"content": "b", "role": "user"},
    ]
    left, right = request(chat("a", messages=plain)), request(chat("a", messages=parts))
    assert left["messages_json"] == right["messages_json"]
    assert left["answer_key"] == right["answer_key"]


QUESTION = {"role": "user", "content": "a"}
BEGUN = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("body", "last", "prefix"),
    [
        ({}, BEGUN, None),
        ({"add_generation_prompt": False, "continue_final_message": True}, BEGUN, True),
        ({"continue_final_message": True}, BEGUN, True),
        ({"continue_final_message": True}, BEGUN | {"prefix": False}, True),
        ({"continue_final_message": True}, QUESTION, True),
        ({"add_generation_prompt": True}, BEGUN, False),
        ({"continue_final_message": False}, BEGUN, False),
        ({"add_generation_prompt": True, "continue_final_message": False}, QUESTION, None),
        ({}, BEGUN | {"prefix": True}, True),
        ({}, BEGUN | {"prefix": False}, False),
        ({}, QUESTION | {"prefix": False}, None),
        ({}, QUESTION | {"prefix": True}, True),
    ],
)
def test_whether_the_answer_goes_on_with_the_last_message(
    body: dict[str, Any], last: dict[str, Any], prefix: bool | None
) -> None:
    found = request(chat("a", messages=[QUESTION, {**BEGUN, "prefix": False}, last], **body))
    turns = json.loads(found["messages_json"])
    assert turns[1] == BEGUN, "an earlier turn is over in any case"
    assert turns[2].pop("prefix", None) is prefix
    assert turns[2] == {name: last[name] for name in ("role", "content")}
    keep = request(chat("a", messages=json.loads(found["messages_json"])))
    assert keep["messages_json"] == found["messages_json"], "the normal form is read as what it is"
    assert keep["answer_key"] == found["answer_key"]
    other = request(
        chat("a", messages=[QUESTION, BEGUN, {name: last[name] for name in last if name != "prefix"}])
    )
    assert (other["answer_key"] == found["answer_key"]) == (prefix is None)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"continue_final_message": 1}, "unsupported_parameter", "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "invalid_parameter",
            "continue_final_message",
        ),
        (
            {"messages": [QUESTION, BEGUN | {"prefix": True}, QUESTION]},
            "invalid_parameter",
            "messages[1].prefix",
        ),
        (
            {"messages": [BEGUN | {"prefix": True}], "add_generation_prompt": True},
            "invalid_parameter",
            "messages[0].prefix",
        ),
        ({"messages": [BEGUN | {"prefix": "yes"}]}, "invalid_parameter", "messages[0].prefix"),
    ],
)
def test_turns_that_nobody_can_answer(body: dict[str, Any], code: str, field: str) -> None:
    assert refusal(chat("a", **body)) == (code, field)


def test_a_completion_has_no_last_message_to_go_on_with() -> None:
    assert refusal(completion("x", continue_final_message=True)) == (
        "unsupported_parameter",
        "continue_final_message",
    )


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"additional_kwargs": {}, "response_metadata": {"model": "m"}, "id": "run-1"}, None),
        ({"additional_kwargs": {"refusal": None, "audio": {}}, "example": False, "function_call": {}}, None),
        ({"reasoning_content": "", "prefix": False, "cache_control": {"type": "ephemeral"}}, None),
        ({"additional_kwargs": {"tool_calls": [{"id": "1"}]}}, "additional_kwargs"),
        ({"unknown": False}, "unknown"),
        ({"reasoning_content": "hm"}, "reasoning_content"),
    ],
)
def test_fields_of_messages_and_parts_that_ask_for_nothing_pass(
    fields: dict[str, Any], refused: str | None
) -> None:
    plain = request(chat("a", messages=[{"role": "user", "content": "b"}]))
    for message, where in (
        ({"role": "user", "content": "b", **fields}, "messages[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "b", **fields}]}, "messages[0].content[0]"),
    ):
        line = chat("a", messages=[message])
        if refused:
            assert refusal(line) == ("unsupported_parameter", f"{where}.{refused}")
        else:
            assert request(line)["answer_key"] == plain["answer_key"]


def test_unsupported_and_invalid_fields_make_error_rows() -> None:
    assert refusal(chat("a", tools=[{}])) == ("unsupported_parameter", "tools")
    assert refusal(chat("a", temperature=5)) == ("invalid_parameter", "temperature")
    assert refusal(chat("a", model=5)) == ("invalid_parameter", "model")
    assert refusal(chat("a", prompt="x")) == ("unsupported_parameter", "prompt")


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (b"{", "invalid_json", None),
        (b'{"a": NaN}', "invalid_json", None),
        (b"[" * 300 + b"]" * 300, "invalid_json", None),
        (b"[" * 5000 + b"]" * 5000, "invalid_json", None),
        (b"1" * 5000, "invalid_json", None),
        (b'{"custom_id": "\\ud800", "url": "/v1/completions", "body": {}}', "invalid_json", None),
        (b'{"url": "/v1/completions", "body": {"prompt": "a", "x": 1e999}}', "invalid_json", None),
        (b'{"url": "/v1/completions", "body": {"prompt": "a"}, "x": 1e999}', "invalid_json", None),
        (b'{"url": "/v1/completions", "body": {"a": NaN}, "x": 123456789012345678901}', "invalid_json", None),
        (b'{"a": "\xff"}', "invalid_utf8", None),
        (b'"' + b"a" * (1 << 16) + b'"', "line_too_long", None),
        (b"[1]", "not_an_object", None),
        ({}, "missing_field", "url"),
        ({"url": "/v1/completions"}, "missing_field", "body"),
        ({"url": "/v1/completions", "body": [1]}, "invalid_field", "body"),
        ({"url": 5, "body": {}}, "invalid_field", "url"),
        ({"url": "/v1/moderations", "body": {}}, "unsupported_url", "url"),
        ({"url": "/v1/completions", "body": {}, "method": "GET"}, "unsupported_method", "method"),
        (chat(""), "invalid_field", "custom_id"),
        (b'{"custom_id": "a", "body": {"x": NaN}}', "invalid_json", None),
        (b'{"custom_id": "a", "url": "/v1/completions"', "invalid_json", None),
    ],
)
def test_lines_that_are_no_requests(line: object, code: str, field: str | None) -> None:
    assert code in set(QuarantineCode)
    assert reason(line) == (code, field)


DEEP = b"[" * 300 + b"]" * 300
DEEPER = b"[" * 30_000 + b"]" * 30_000
LONG = b'"' + b"a" * (1 << 16) + b'"'
NAMED = b'"custom_id": "n"'


@pytest.mark.parametrize(
    ("line", "name", "code", "field"),
    [
        ({"custom_id": "n"}, "n", "missing_field", "url"),
        ({"custom_id": "n", "url": "/v1/completions"}, "n", "missing_field", "body"),
        ({"custom_id": "n", "url": "/v1/completions", "body": [1]}, "n", "invalid_field", "body"),
        ({"custom_id": "n", "url": 5, "body": {}}, "n", "invalid_field", "url"),
        ({"custom_id": "n", "url": "/v1/moderations", "body": {}}, "n", "unsupported_url", "url"),
        (chat("n") | {"method": "GET"}, "n", "unsupported_method", "method"),
        (chat("n") | {"method": ["POST"]}, "n", "unsupported_method", "method"),
        (chat(5), "5", "invalid_field", "custom_id"),
        (chat(1.5), "1.5", "invalid_field", "custom_id"),
        (chat(["x", 1]), '["x",1]', "invalid_field", "custom_id"),
        (chat({"a": None}), '{"a":null}', "invalid_field", "custom_id"),
        (b'{%b, "url": "/v1/completions", "body": {"x": 1e999}}' % NAMED, "n", "invalid_json", None),
        (b'{"url": "/v1/completions", "body": {}, "x": "\\ud800", %b}' % NAMED, "n", "invalid_json", None),
        (b'{"body": %b, "x": {"custom_id": "no"}, %b}' % (DEEP, NAMED), "n", "invalid_json", None),
        (b'{"x": [{"custom_id": "no"}], %b, "body": %b}' % (NAMED, DEEPER), "n", "invalid_json", None),
        (b'{"x": [{"custom_id": "no"}], %b, "body": %b}' % (NAMED, LONG), "n", "line_too_long", None),
        (b'\xef\xbb\xbf{"custom_id": 7, "body": %b}' % LONG, "7", "line_too_long", None),
        (
            b'{"body": %b, "custom_id":"\\u00e9\\"", "x": {"custom_id": "no"}, "y": [1]}' % LONG,
            'é"',
            "line_too_long",
            None,
        ),
        (
            b'{"body": {"custom_id": "no", "a": %b}, %b, "url": "/v1/completions"}' % (LONG, NAMED),
            "n",
            "line_too_long",
            None,
        ),
    ],
)
def test_every_custom_id_comes_back(line: object, name: str, code: str, field: str | None) -> None:
    (found,) = parse(line, b"{}")[:1]
    outcome, row = found
    assert outcome is Outcome.ERROR, row
    assert (row["custom_id"], row["code"], row["field"]) == (name, code, field)
    # Without its name it is in quarantine under the same code.
    data = line if isinstance(line, bytes) else json.dumps(line).encode()
    if field != "custom_id":
        assert reason(data.replace(b'"custom_id"', b'"other_id_"')) == (code, field)


def test_names_within_prompts_are_no_names_of_lines() -> None:
    quoted = json.dumps({"body": '"custom_id": "no"', "x": "a" * (1 << 16)}).encode()
    assert reason(quoted) == ("line_too_long", None)
    behind = json.dumps({"x": "a" * (1 << 16), "body": 'a "custom_id": "no"}'}).encode()
    assert reason(behind) == ("line_too_long", None)
    nested = json.dumps({"x": "a" * (1 << 16), "body": {"custom_id": "no", "y": 1}}).encode()
    assert reason(nested) == ("line_too_long", None)
    cut = b'{"custom_id": "' + b"a" * (1 << 16) + b'", "x": 1}'
    assert reason(cut) == ("line_too_long", None)


def test_a_named_line_that_is_no_request_keeps_to_its_place_among_others() -> None:
    bad = {"custom_id": "a", "url": "/v1/moderations", "body": {"input": "x", "metadata": {"tenant": "t"}}}
    other = {"custom_id": "a", "url": "/v1/moderations", "body": {"input": "y"}}
    found = parse(bad, bad, other, chat("a"), chat("b"), bad | {"custom_id": "b"})
    assert [outcome for outcome, _ in found] == [
        Outcome.ERROR,
        Outcome.ERROR,
        Outcome.QUARANTINED,
        Outcome.QUARANTINED,
        Outcome.REQUEST,
        Outcome.QUARANTINED,
    ]
    rows = [row for _, row in found]
    assert rows[1]["duplicate_of"] == rows[0]["request_id"] != rows[1]["request_id"]
    assert rows[0]["tenant"] == "t"
    assert {rows[place]["code"] for place in (2, 3, 5)} == {"duplicate_custom_id_conflict"}


def test_the_model_filter_holds_for_named_lines_that_are_no_requests() -> None:
    bad = {"custom_id": "a", "url": "/v1/moderations", "body": {"model": "m"}}
    found = parse(bad, {**bad, "body": {"model": "n"}}, {"custom_id": "c"}, model_filter=("n",))
    assert [outcome for outcome, _ in found] == [Outcome.FILTERED, Outcome.ERROR, Outcome.ERROR]


def test_quarantined_text_is_bounded() -> None:
    ((_, row),) = parse(b"\xff" * 60_000)
    assert row is not None
    assert len(row["raw_text"]) == 2000
    assert row["byte_length"] == 60_000


def test_nesting_within_the_limit_passes() -> None:
    value: object = "x"
    for _ in range(90):
        value = [value]
    assert request(chat("a", metadata={"deep": value}))
    # Brackets inside a text are no nesting.
    assert request(completion("[{" * 1000))


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(chat()).encode())[0][0] is Outcome.REQUEST


def test_blank_lines() -> None:
    assert [found[0] for found in parse(b"", b" \t\r", chat())] == [
        Outcome.BLANK,
        Outcome.BLANK,
        Outcome.REQUEST,
    ]


def test_an_identical_repeat_gets_its_own_row() -> None:
    again = {"body": dict(reversed(chat("a")["body"].items())), "url": chat()["url"], "custom_id": "a"}
    rows = [row for _, row in parse(chat("a"), again, chat("b"), chat("a"))]
    first, second, other, third = rows
    assert first["duplicate_of"] is None
    assert other["duplicate_of"] is None
    assert second["duplicate_of"] == third["duplicate_of"] == first["request_id"]
    assert len({row["request_id"] for row in rows}) == 4
    assert len({row["answer_key"] for row in rows}) == 1


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"user": "else"}, {"model": "n"}, {"tools": [1]}])
def test_another_body_under_the_same_id_is_set_aside(change: dict) -> None:
    found = parse(chat("a"), chat("a", **change), chat("a"))
    assert [outcome for outcome, _ in found] == [Outcome.REQUEST, Outcome.QUARANTINED, Outcome.REQUEST]
    assert found[1][1]["code"] == "duplicate_custom_id_conflict"


def test_the_first_line_wins_also_when_it_cannot_be_answered() -> None:
    found = parse(chat("a", tools=[1]), chat("a"), chat("a", tools=[1]))
    assert [outcome for outcome, _ in found] == [Outcome.ERROR, Outcome.QUARANTINED, Outcome.ERROR]
    assert found[2][1]["duplicate_of"] == found[0][1]["request_id"]


def test_requests_without_custom_id_are_told_apart_by_their_count() -> None:
    rows = [row for _, row in parse(chat(None), chat(None), chat(None, seed=1, temperature=1))]
    assert len({row["request_id"] for row in rows}) == 3
    assert rows[0]["answer_key"] == rows[1]["answer_key"] != rows[2]["answer_key"]
    assert all(row["duplicate_of"] is None for row in rows)


UNIQUE = st.lists(
    st.tuples(st.none() | st.sampled_from("abcdef"), st.integers(0, 2)), max_size=12, unique_by=lambda x: x[0]
)
REPEATS = st.lists(st.tuples(st.none(), st.integers(0, 2)), max_size=6)


@given(UNIQUE, REPEATS, st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_rename_requests(unique: list, repeats: list, random: object) -> None:
    lines = [chat(name, seed=seed) for name, seed in unique + repeats]
    shuffled = list(lines)
    random.shuffle(shuffled)
    ids = [{row["request_id"]: row["answer_key"] for _, row in parse(*order)} for order in (lines, shuffled)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(lines)


def test_the_object_names_its_requests_and_not_its_answers() -> None:
    left, right = request(chat()), request(chat(), source_uri="s3://b/renamed")
    assert left["request_id"] != right["request_id"]
    assert left["answer_key"] == right["answer_key"]


def test_defaults_are_part_of_the_answer_only_where_they_apply() -> None:
    long = SamplingDefaults(max_tokens=300)
    assert request(chat())["answer_key"] != request(chat(), defaults=long)["answer_key"]
    own = chat("a", max_tokens=5)
    assert request(own)["answer_key"] == request(own, defaults=long)["answer_key"]
    assert request(chat("a", max_tokens=256))["answer_key"] == request(chat())["answer_key"]


def test_the_model_filter() -> None:
    lines = [chat("a"), chat("b", model="gpt-4o"), chat("c", model=None), chat("a", model="gpt-4o-mini")]
    found = parse(*lines, b"{", model_filter=("gpt-4o*",))
    assert [outcome for outcome, _ in found] == [
        Outcome.FILTERED,
        Outcome.REQUEST,
        Outcome.FILTERED,
        Outcome.REQUEST,
        Outcome.QUARANTINED,
    ]
