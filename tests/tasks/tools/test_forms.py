"""How models write calls of tools: found by their templates, read back, and enforced token by token."""

from __future__ import annotations

import json
from datetime import date
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken

from engine.grammar.constraint import field_of, grammar
from engine.runtime.sample.constraints import make_vocabulary
from tasks.base.errors import RequestError
from tasks.infer.calls import CallReader
from tasks.profile.chat_template import ChatTemplate
from tasks.requests.sampling import explicit_sampling
from tasks.tools.enforce import calls_of
from tasks.tools.forms import OWN, ToolForm
from tasks.tools.reading import read_calls
from tests.support.tokenizers import byte_level
from tests.support.tool_templates import HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

ASKED = [{"role": "user", "content": "weather?"}]
ARGUMENTS = {"city": "Köln", "days": 3}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"$ref": "#/$defs/days"}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1}},
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
RESPONSE_TEMPLATE = {
    "start_anchor": "\0",
    "fields": {
        "content": {"content": "text"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "content": "json",
            "repeats": True,
            "transform": {
                "type": "function",
                "function": {"name": "{content.f}", "arguments": "{content.a}"},
            },
        },
    },
}


def tokenizer_with(template: str, *, marked: bool = True) -> Any:
    """Return a tokenizer whose calls are marked by tokens of their own, as those of models for tools are."""
    tokenizer = byte_level()
    tokenizer.chat_template = template
    if not marked:
        return tokenizer
    marks = [AddedToken(mark, special=True) for mark in ("[TOOL_CALLS]", "[ARGS]")]
    tokenizer.add_tokens([*marks, AddedToken("<tool_call>", special=False)])
    return tokenizer


def form_of(template: str) -> ToolForm | None:
    return ChatTemplate(tokenizer_with(template), date(2026, 11, 22)).tool_form


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}}


def written(template: str, *calls: dict[str, Any]) -> str:
    """Return an answer as the model's own template writes it, without what ends it."""
    tokenizer = tokenizer_with(template)
    asked = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    answer = {"role": "assistant", "content": "", "tool_calls": list(calls)}
    whole = tokenizer.apply_chat_template([*ASKED, answer], tokenize=False)
    begin = next(i for i, (a, b) in enumerate(zip(asked + "\0", whole + "\1", strict=False)) if a != b)
    for end in ("<|im_end|>\n", "<|eot_id|>", "</s>"):
        whole = whole.removesuffix(end)
    return whole[begin:].lstrip("\n").replace(', "id": "abcdefghi"', "")


def settings(choice: Any = "required", tools: Any = TOOLS, **more: Any) -> dict[str, Any]:
    return explicit_sampling({"tools": tools, "tool_choice": choice, **more})


def matcher(template: str, *, marked: bool = True, **asked: Any) -> tuple[Any, Any]:
    """Return the constraint that a request comes to, and what tells whether a text satisfies it."""
    tokenizer = tokenizer_with(template, marked=marked)
    form = ChatTemplate(tokenizer).tool_form
    assert form is not None
    added = {str(one): i for i, one in tokenizer.added_tokens_decoder.items()}
    made = calls_of(settings(**asked), form, added)
    assert made is not None
    assert field_of(made) == "tools"
    vocabulary = make_vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])

    def accepts(text: str) -> bool:
        found = LLMatcher(vocabulary, grammar(made), log_level=0)
        assert not found.is_error(), found.get_error()
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(found.try_consume_tokens(ids) == len(ids) and found.is_accepting())

    return made, accepts


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_is_read_as_the_template_writes_it(name: str) -> None:
    form = form_of(TEMPLATES[name])
    assert form is not None
    assert form.name == name
    calls = [call("weather", ARGUMENTS), call("now", {})][: 1 if name == "llama3-json" else 2]
    text, found = read_calls(written(TEMPLATES[name], *calls), name, "x")
    assert text == ""
    assert [one["type"] for one in found] == ["function"] * len(calls)
    assert [one["function"]["name"] for one in found] == [one["function"]["name"] for one in calls]
    told = [one["function"]["arguments"] for one in found]
    assert told == [json.dumps(one["function"]["arguments"], ensure_ascii=False) for one in calls]
    ids = [one["id"] for one in found]
    assert len(set(ids)) == len(ids)
    assert ids == [one["id"] for one in read_calls(written(TEMPLATES[name], *calls), name, "x")[1]]
    assert ids != [one["id"] for one in read_calls(written(TEMPLATES[name], *calls), name, "y")[1]]
    if name.startswith("mistral"):
        assert all(len(own) == 9 and own.isalnum() for own in ids)


def test_hermes_with_arguments_first() -> None:
    swapped = HERMES.replace(
        """{"name": "' + call.function.name + '", "arguments": ' }}""", """{ "arguments": ' }}"""
    ).replace(
        "(call.function.arguments | tojson) + '}",
        """(call.function.arguments | tojson) + ', "name": "'
 + call.function.name + '"}""",
    )
    form = form_of(swapped)
    assert form is not None
    assert (form.name, form.before) == ("hermes", '{ "arguments": ')
    _, accepts = matcher(swapped)
    assert accepts(written(swapped, call("weather", ARGUMENTS)))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": '),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": "none"}\n</tool_call>'),
        ("hermes", "<tool_call>\n[1]\n</tool_call>"),
        ("hermes", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
        ("llama3-json", '{"name": "f", "parameters": {"a": 1}} and more'),
        ("llama3-json", '{"answer": 42}'),
        ("llama3-json", 'Use {"name": "f", "parameters": {}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "f"}]'),
        ("mistral-args", "[TOOL_CALLS]f[ARGS]{"),
        ("hermes", "no call at all"),
    ],
)
def test_what_is_no_call_stays_text(form: str, text: str) -> None:
    assert read_calls(text, form, "x") == (text, [])


def test_text_beside_calls_is_kept() -> None:
    one = written(HERMES, call("now", {}))
    assert read_calls(f"<think>hm</think>\n\nI look.\n{one}\n", "hermes", "x")[0] == (
        "<think>hm</think>\n\nI look."
    )
    assert read_calls('<|python_tag|>{"name": "f", "parameters": {}}', "llama3-json", "x")[1]


def test_a_tokenizer_that_says_how_its_answers_are_read() -> None:
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}")
    tokenizer.response_template = RESPONSE_TEMPLATE
    form = ChatTemplate(tokenizer).tool_form
    assert form == ToolForm(OWN)
    text, calls = read_calls('<call>{"f": "now", "a": {}}</call>', OWN, "x", RESPONSE_TEMPLATE)
    assert (text, calls[0]["function"]) == ("", {"name": "now", "arguments": "{}"})
    assert calls_of(settings("auto"), ToolForm(OWN), {}) is None
    with pytest.raises(RequestError) as caught:
        calls_of(settings("required"), ToolForm(OWN), {})
    assert caught.value.field == "tool_choice"
    assert form_of("{% for m in messages %}{{ m.content }}{% endfor %}") is None


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_required_calls_are_held_to_form_and_schema(name: str, marked: bool) -> None:
    template = TEMPLATES[name]
    _, accepts = matcher(template, marked=marked)
    good, now = call("weather", ARGUMENTS), call("now", {})
    assert accepts(written(template, good))
    assert accepts(written(template, now))
    assert not accepts(written(template, call("weather", {"city": "x", "days": 0})))
    assert not accepts(written(template, call("weather", {"city": "x"})))
    assert not accepts(written(template, call("now", {"x": 1})))
    assert not accepts(written(template, call("other", {})))
    assert not accepts("text")
    if name != "llama3-json":
        assert accepts(written(template, good, now))
        _, alone = matcher(template, parallel_tool_calls=False)
        assert alone(written(template, good))
        assert not alone(written(template, good, now))
    _, named = matcher(template, choice={"type": "function", "function": {"name": "now"}})
    assert named(written(template, now))
    assert not named(written(template, good))


def test_a_schema_cannot_loosen_the_form_of_a_call() -> None:
    loose = {"type": "object", "x-guidance": {"whitespace_flexible": True}}
    tool = {"type": "function", "function": {"name": "f", "parameters": loose}}
    with pytest.raises(RequestError) as caught:
        matcher(HERMES, tools=[tool])
    assert caught.value.field == "tools[0].function.parameters"


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS])
def test_strict_functions_are_held_to_their_schema_where_text_may_come_instead(
    template: str, marked: bool
) -> None:
    strict = [TOOLS[0] | {"function": TOOLS[0]["function"] | {"strict": True}}, TOOLS[1]]
    _, accepts = matcher(template, marked=marked, choice="auto", tools=strict)
    good, now = written(template, call("weather", ARGUMENTS)), written(template, call("now", {"free": [1]}))
    assert accepts("It is warm, {so} to say.")
    assert accepts(good)
    assert accepts(now), "a function that is not strict"
    assert not accepts(written(template, call("weather", {"city": "x", "days": 0})))
    if template is not LLAMA:
        assert accepts(f"I look. {good}")
        assert not accepts(f"I look. {written(template, call('weather', {}))}")
    assert not accepts(good + " and more")


def test_free_answers_have_no_constraint() -> None:
    for template in TEMPLATES.values():
        form = form_of(template)
        assert form is not None
        assert calls_of(settings("auto"), form, {}) is None
    # The form has a single call anyway.
    llama = form_of(LLAMA)
    assert llama is not None
    assert calls_of(settings("auto", parallel_tool_calls=False), llama, {}) is None
    _, accepts = matcher(HERMES, choice="auto", parallel_tool_calls=False)
    one = call("now", {"any": 1})
    assert accepts(written(HERMES, one))
    assert not accepts(written(HERMES, one, one))


@pytest.mark.parametrize("template", [MISTRAL, MISTRAL_ARGS])
def test_calls_marked_by_tokens_that_no_text_shows(template: str, tmp_path: Path) -> None:
    """The text of an answer is without special tokens; its calls are read all the same, in every choice."""
    tokenizer = tokenizer_with(template)
    tokenizer.save_pretrained(tmp_path)
    form = ChatTemplate(tokenizer).tool_form
    assert form is not None
    items = []
    for text in (written(template, call("weather", ARGUMENTS)), "no call"):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        items.append({"token_ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)})
    assert "TOOL_CALLS" not in items[0]["text"]
    choices = [{"text": item["text"]} for item in items]
    answer = {"text": items[0]["text"], "choices": choices}
    reader = CallReader(SimpleNamespace(model_dir=tmp_path))
    reader.put(answer, items, {"tool_form": form.name}, "a")
    first, second = json.loads(answer["tool_calls_json"])
    assert first[0]["function"] == {
        "name": "weather",
        "arguments": json.dumps(ARGUMENTS, ensure_ascii=False),
    }
    assert second is None
    assert answer["text"] == answer["choices"][0]["text"] == ""
    assert answer["choices"][1]["text"] == "no call"
    free = {"text": "x", "choices": None}
    reader.put(free, items[:1], {}, "a")
    assert free == {"text": "x", "choices": None}
