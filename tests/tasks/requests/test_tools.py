"""Tools of chats: what bodies say, how prompts show them, and whole nights with their calls."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tasks.base.errors import ErrorCode, RequestError
from tasks.profile.chat_template import ChatTemplate
from tasks.publish.output_lines import output_line
from tasks.requests.prompts import chat_content
from tasks.requests.sampling import check_supported, explicit_sampling
from tasks.requests.tools import tool_settings
from tests.support.demo_nights import answer, night_request, opened, write_lines
from tests.support.parsing import read_records
from tests.support.paths import DEMO_MODEL
from tests.support.tokenizers import byte_level
from tests.support.tool_templates import HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, NO_TOOLS

if TYPE_CHECKING:
    from pathlib import Path

TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Find an order.",
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "string", "maxLength": 4}, "all": {"type": "boolean"}},
            "required": ["id"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ASKED = [{"role": "user", "content": "Where is 7?"}]
CALL = {"id": "abcdefghi", "type": "function"}
CALLED = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL | {"function": {"name": "find_order", "arguments": '{"id": "7", "all": true}'}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "shipped"},
]
FIRST_CALL = "messages[0].tool_calls[0]"
NAMED = {"type": "function", "function": {"name": "now"}}


def function(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": fields}]}


def called(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [CALL | {"function": {"name": "f", "arguments": arguments}}]}


def refusal(body: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        tool_settings(body)
    return caught.value.code.value, caught.value.field


def test_what_a_body_says_of_tools() -> None:
    tools = json.dumps([TOOL, NOW], separators=(",", ":"))
    both = {"tools": [TOOL, NOW]}
    assert tool_settings({}) == tool_settings({"tools": [], "tool_choice": "none"}) == {}
    assert tool_settings(both) == tool_settings(both | {"tool_choice": "auto"}) == {"tools": tools}
    assert tool_settings(both | {"tool_choice": "none"}) == {}
    assert tool_settings(both | {"tool_choice": "required"})["tool_choice"] == "required"
    assert tool_settings(both | {"tool_choice": NAMED})["tool_choice"] == {"name": "now"}
    assert tool_settings(both | {"parallel_tool_calls": True}) == {"tools": tools}
    assert tool_settings(both | {"parallel_tool_calls": False})["parallel_tool_calls"] is False
    check_supported(both | {"tool_choice": "required"}, "chat")
    with pytest.raises(RequestError, match="not supported"):
        check_supported(both, "completions")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": 3}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),
        ({"tools": [NOW | {"cache": 1}]}, "tools[0].cache"),
        (function(name="f", examples=[]), "tools[0].function.examples"),
        ({"tools": [NOW], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [NOW], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_is_not_supported(body: dict[str, Any], field: str) -> None:
    assert refusal(body) == ("unsupported_parameter", field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (function(), "tools[0].function.name"),
        ({"tools": [NOW, NOW]}, "tools[1].function.name"),
        (function(name="f", parameters=[1]), "tools[0].function.parameters"),
        (function(name="f", strict=1), "tools[0].function.strict"),
        (function(name="f", description=1), "tools[0].function.description"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_what_means_nothing(body: dict[str, Any], field: str) -> None:
    assert refusal(body) == ("invalid_parameter", field)


def test_a_schema_is_checked_where_calls_are_enforced() -> None:
    loose = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    body = {"tools": [NOW, {"type": "function", "function": loose}]}
    place = "tools[1].function.parameters"
    assert tool_settings(body)
    assert tool_settings(body | {"tool_choice": NAMED}), "another function is called"
    assert refusal(body | {"tool_choice": "required"}) == ("unsupported_parameter", place)
    strict = {"tools": [{"type": "function", "function": loose | {"strict": True}}]}
    assert refusal(strict) == ("unsupported_parameter", "tools[0].function.parameters")
    scalar = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]}
    assert refusal(scalar | {"tool_choice": "required"})[0] == "invalid_parameter"


def test_what_does_not_go_with_tools() -> None:
    for more, field in (({"min_tokens": 2}, "min_tokens"), ({"guided_regex": "a"}, "tools")):
        with pytest.raises(RequestError) as caught:
            explicit_sampling({"tools": [NOW], **more})
        assert (caught.value.code, caught.value.field) == (ErrorCode.UNSUPPORTED_PARAMETER, field)
    assert "constraint" in explicit_sampling({"tools": [NOW], "tool_choice": "none", "guided_regex": "a"})


def test_tools_in_another_order_are_another_request() -> None:
    swapped = {"type": "function", "function": {"parameters": {}, "name": "now"}}
    as_sent = {"type": "function", "function": {"name": "now", "parameters": {}}}

    def key(**body: Any) -> Any:
        line = {"url": "/v1/chat/completions", "custom_id": "a", "body": {"messages": ASKED, **body}}
        return read_records([line])[0]["answer_key"]

    keys = [
        key(),
        key(tools=[as_sent]),
        key(tools=[swapped]),
        key(tools=[as_sent], tool_choice="required"),
        key(tools=[as_sent, TOOL]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(tools=[as_sent], tool_choice="none") == keys[0]
    assert key(tools=[as_sent], tool_choice="auto") == keys[1]


def test_messages_around_calls_have_one_form() -> None:
    def normal(*messages: dict[str, Any]) -> Any:
        return json.loads(chat_content({"messages": [*ASKED, *messages]})["messages_json"])[1:]

    assert normal(*CALLED[1:]) == CALLED[1:]
    of_mistral = CALLED[1] | {
        "tool_calls": [{"id": "abcdefghi", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]
    }
    (message,) = normal(of_mistral | {"content": []})
    assert message["content"] is None
    assert message["tool_calls"][0] == CALL | {"function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
    (message,) = normal(CALLED[1] | {"content": "I look.", "refusal": None, "function_call": None})
    assert (message["content"], len(message["tool_calls"])) == ("I look.", 1)
    assert normal({"role": "assistant", "content": "x", "tool_calls": None}) == [
        {"role": "assistant", "content": "x"}
    ]
    text = [{"type": "text", "text": "ship"}, {"type": "text", "text": "ped"}]
    assert normal(CALLED[2] | {"content": text}) == [CALLED[2]]


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"role": "user"}, "unsupported_parameter", "messages[0].tool_calls"),
        ({"tool_calls": 1}, "invalid_parameter", "messages[0].tool_calls"),
        ({"tool_calls": [{"type": "custom"}]}, "unsupported_parameter", "messages[0].tool_calls"),
        ({"tool_calls": [{"function": {}}]}, "invalid_parameter", f"{FIRST_CALL}.function.name"),
        (called("[1]"), "invalid_parameter", f"{FIRST_CALL}.function.arguments"),
        (called('{"a'), "invalid_parameter", f"{FIRST_CALL}.function.arguments"),
        ({"tool_calls": [], "content": None}, "invalid_parameter", "messages[0].content"),
        ({"tool_calls": [{"id": 3, "function": {"name": "f"}}]}, "invalid_parameter", f"{FIRST_CALL}.id"),
    ],
)
def test_calls_that_are_none(change: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat_content({"messages": [CALLED[1] | {"content": "x"} | change]})
    assert (caught.value.code.value, caught.value.field) == (code, field)


@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS])
def test_prompts_are_those_of_transformers(template: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    ours = ChatTemplate(tokenizer)
    tools = [TOOL, {"type": "function", "function": {"parameters": {"z": 1, "a": 2}, "name": "later"}}]
    as_object = {"name": "find_order", "arguments": {"id": "7", "all": True}}
    theirs = [*ASKED, CALLED[1] | {"tool_calls": [CALL | {"function": as_object}]}, CALLED[2]]
    for messages, given in ((ASKED, ASKED), (CALLED, theirs), ([*CALLED, *ASKED], [*theirs, *ASKED])):
        for defined in (tools, None):
            told = tool_settings({"tools": defined}).get("tools")
            expected = tokenizer.apply_chat_template(
                given, tools=defined, tokenize=False, add_generation_prompt=True
            )
            normal = json.loads(chat_content({"messages": messages})["messages_json"])
            assert ours.render(normal, tools=told) == expected


def test_what_a_template_leaves_out() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = NO_TOOLS
    ours, told = ChatTemplate(tokenizer), tool_settings({"tools": [TOOL]})["tools"]
    with pytest.raises(RequestError) as caught:
        ours.render(ASKED, tools=told)
    assert (caught.value.code, caught.value.field) == (ErrorCode.TEMPLATE_ERROR, "tools")
    plain = "{% for m in messages %}{{ m.role }}{{ m.content or '' }}{% endfor %}"
    tokenizer.chat_template = plain
    with pytest.raises(RequestError) as caught:
        ChatTemplate(tokenizer).render(CALLED)
    assert caught.value.field == "messages[1].role"
    # Text beside a call that is shown without it.
    tokenizer.chat_template = LLAMA
    with pytest.raises(RequestError) as caught:
        ChatTemplate(tokenizer).render([*ASKED, CALLED[1] | {"content": "I look."}, CALLED[2]])
    assert caught.value.field == "messages[1].role"
    # What the template itself refuses, it says itself.
    two = CALLED[1] | {"tool_calls": CALLED[1]["tool_calls"] * 2}
    with pytest.raises(RequestError, match="one call at a time"):
        ChatTemplate(tokenizer).render([*ASKED, two, CALLED[2]])


def line(name: str, **body: Any) -> str:
    body = {"model": "m", "messages": ASKED, "max_tokens": 60, "temperature": 1.3, "seed": 5, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})


def model_with(folder: Path, template: str) -> Path:
    shutil.copytree(DEMO_MODEL, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_night_with_tools(tmp_path: Path) -> None:
    """Where a call is required there is one, and it is valid; a text without one stays as it is."""
    both = {"tools": [TOOL, NOW]}
    lines = [
        line("auto", **both),
        line("none", **both, tool_choice="none"),
        line("required", **both, tool_choice="required", n=3),
        line("named", **both, tool_choice={"type": "function", "function": {"name": "find_order"}}),
        line("one", **both, tool_choice="required", parallel_tool_calls=False, temperature=0, n=2),
        line("again", messages=CALLED, **both),
        line("cut", **both, tool_choice="required", max_tokens=3),
    ]
    write_lines(tmp_path / "logs", "a.jsonl", lines)
    request = night_request(tmp_path, model_with(tmp_path / "model", HERMES))
    with opened(request, tmp_path / "scratch") as night:
        answer(night)
        rows = night.read_table("outputs").to_pylist()
        assert not night.read_table("errors").to_pylist()
    found = {row["custom_id"]: output_line(row, "m")["response"]["body"]["choices"] for row in rows}
    assert len(found) == len(lines)
    assert [len(found[name]) for name in ("required", "one")] == [3, 2]
    for name in ("required", "named", "one"):
        for choice in found[name]:
            if choice["finish_reason"] == "length":
                continue
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"]["content"] is None
            for call in choice["message"]["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                if call["function"]["name"] == "find_order":
                    jsonschema.validate(arguments, TOOL["function"]["parameters"])
                else:
                    assert (name, call["function"]["name"], arguments) != ("named", "now", {})
    ended = [one["finish_reason"] for name in ("required", "named", "one") for one in found[name]]
    assert "tool_calls" in ended
    assert [len(one["message"]["tool_calls"]) for one in found["one"]] == [1, 1]
    ids = [call["id"] for one in found["one"] for call in one["message"]["tool_calls"]]
    assert len(set(ids)) == 2
    for name in ("auto", "none", "again", "cut"):
        (choice,) = found[name]
        assert "tool_calls" not in choice["message"] or choice["finish_reason"] == "tool_calls"
    assert found["cut"][0]["finish_reason"] == "length"
    assert found["cut"][0]["message"]["content"]
