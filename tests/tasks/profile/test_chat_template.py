"""Chats as texts: nothing is left out without a word, and a clock shows the run's date."""

from __future__ import annotations

from datetime import date, datetime
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from tasks.base.errors import ErrorCode, RequestError
from tasks.profile.chat_template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = date(2026, 11, 22)
FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}<sys>{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content | trim }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}|{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer_with(template: Any) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    fast.chat_template = template
    return fast


def template_of(text: Any, run_date: date = DAY) -> ChatTemplate:
    return ChatTemplate(tokenizer_with(text), run_date)


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, _, text in (turn.partition(":") for turn in turns)]


def refusal(template: ChatTemplate, messages: Sequence[dict[str, str]]) -> tuple[str, str | None, str]:
    with pytest.raises(RequestError) as caught:
        template.render(messages)
    return str(caught.value.code), caught.value.field, caught.value.message


def test_a_message_that_the_template_leaves_out_is_named() -> None:
    template = template_of(FIRST_SYSTEM)
    whole = chat("system:one", "user:two", "assistant:three", "user:five")
    assert template.render(whole) == "<sys>one<user>two<assistant>three<user>five<assistant>"
    late = [*whole[:3], {"role": "system", "content": "four"}, whole[3]]
    code, field, message = refusal(template, late)
    assert (code, field) == (ErrorCode.TEMPLATE_ERROR, "messages[3].role")
    assert message == "the chat template leaves out message 4 of 5, of role system"
    assert "four" not in message
    twice = [whole[0], {"role": "system", "content": "one"}, whole[1]]
    assert refusal(template, twice)[1] == "messages[1].role", "its text is in the prompt, of another message"
    assert refusal(template, chat("developer:one", "user:one"))[1] == "messages[0].role"


def test_a_message_without_text_can_be_left_out() -> None:
    template = template_of(FIRST_SYSTEM)
    assert template.render(chat("user:a", "system: ", "user:b")) == "<user>a<user>b<assistant>"


@pytest.mark.parametrize(
    ("text", "turns", "field"),
    [
        ("{{ messages[-1].content }}", ["user:a", "assistant:b", "user:c"], "messages[0].role"),
        ("{% for m in messages[-2:] %}{{ m.content }}{% endfor %}", ["user:a"] * 3, "messages[0].role"),
        ("{% for m in messages if not m.name %}{{ m.content }}{% endfor %}", ["user:a"], None),
        (
            "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
            ["user:a", "assistant:a", "user:c"],
            "messages[1].role",
        ),
        # Made for contents that are lists of parts.
        ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", ["user:abc"], "messages[0].role"),
    ],
)
def test_any_role_in_any_place(text: str, turns: list[str], field: str | None) -> None:
    template, messages = template_of(text), chat(*turns)
    if field is None:
        template.render(messages)
        messages = [messages[0] | {"name": "n"}]
        field = "messages[0].role"
    assert refusal(template, messages)[:2] == (ErrorCode.TEMPLATE_ERROR, field)


def test_what_a_template_does_to_a_text_is_its_own_affair() -> None:
    """Trimming, and taking the reasoning out of earlier answers, are no loss of a message."""
    text = (
        "{% for m in messages %}{{ m.role }}: {{ (m.content.split('</think>') | last) | trim | upper }}\n"
        "{% endfor %}"
    )
    messages = chat("user: hi  ", "assistant:<think>hm</think>yes", "user:go on")
    assert template_of(text).render(messages) == "user: HI\nassistant: YES\nuser: GO ON\n"


def test_all_patterns_of_a_template_that_shows_the_first_system_message_only() -> None:
    template = template_of(FIRST_SYSTEM)
    for size in (1, 2, 3, 4):
        for roles in product(("system", "user", "assistant"), repeat=size):
            turns = [{"role": role, "content": f"t{index}"} for index, role in enumerate(roles)]
            turns[-1] |= {"prefix": False} if roles[-1] == "assistant" else {}
            wrong = [index for index, role in enumerate(roles) if role == "system" and index > 0]
            if wrong:
                assert refusal(template, turns)[1] == f"messages[{wrong[0]}].role"
            else:
                assert all(turn["content"] in template.render(turns) for turn in turns)


def test_a_pattern_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, calls = tokenizer_with(FIRST_SYSTEM), 0
    template, real = ChatTemplate(fast, DAY), fast.apply_chat_template

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*args, **options)

    monkeypatch.setattr(fast, "apply_chat_template", counted)
    for number in range(10):
        template.render(chat(f"user:{number}"))
        template.render(chat(f"system:{number}", "user:a"))
    assert calls == 20 + 2


def test_the_templates_own_refusal_is_told() -> None:
    text = "{{ raise_exception('only one message') if messages | length > 1 }}{{ messages[0].content }}"
    template = template_of(text)
    assert refusal(template, chat("user:a", "user:b")) == (
        ErrorCode.TEMPLATE_ERROR,
        "messages",
        "the chat template refuses these messages: only one message",
    )
    assert template.render(chat("user:a")) == "a"


@pytest.mark.parametrize("missing", [None, "", {"tool_use": "x"}])
def test_no_template_to_take(missing: Any) -> None:
    template = template_of(missing)
    assert "no chat template" in str(template.problem)
    assert refusal(template, chat("user:a"))[:2] == (ErrorCode.TEMPLATE_ERROR, "messages")
    assert template.clock is None


CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_last_message_is_gone_on_with_or_over_as_the_request_says() -> None:
    template, fast = template_of(CHATML), tokenizer_with(CHATML)
    messages = chat("user:Give JSON", "assistant:{ ")
    *before, last = messages
    assert template.render([*before, last | {"prefix": True}]) == "<user>Give JSON</><assistant>{ "
    assert template.render([*before, last | {"prefix": True}]) == fast.apply_chat_template(
        messages, tokenize=False, continue_final_message=True
    )
    assert template.render([*before, last | {"prefix": False}]) == (
        "<user>Give JSON</><assistant>{ </><assistant>"
    )
    assert refusal(template, messages) == (
        "missing_parameter",
        "continue_final_message",
        "the last message is the assistant's; say true to go on with it, false to begin a new turn",
    )
    assert template.render([{"role": "user", "content": "Once", "prefix": True}]) == "<user>Once"


def test_a_message_that_is_not_shown_as_it_is_cannot_be_gone_on_with() -> None:
    """The error of `transformers` holds the text of the message; an error row does not repeat it."""
    template = template_of("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    secret = [{"role": "assistant", "content": "secret", "prefix": True}]
    assert template.render([{"role": "user", "content": "a"}]) == "A"
    code, field, message = refusal(template, secret)
    assert (code, field) == (ErrorCode.TEMPLATE_ERROR, "messages")
    assert message.endswith("so no answer can go on with it")


class Calendar(datetime):
    """What `transformers` takes for the time."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2031, 1, 2, 3, 4, 5, tzinfo=tz)


def test_a_clock_shows_the_runs_date_whenever_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = template_of(DATED, date(2026, 3, 1))
    template = template_of(DATED)
    assert template.render(chat("user:a")) == "22 Nov 2026|a"
    monkeypatch.setattr(chat_template_utils, "datetime", Calendar)
    assert template.render(chat("user:a")) == "22 Nov 2026|a"
    assert other.render(chat("user:a")) == "01 Mar 2026|a", "two dates in one process"
    assert template_of("{{ strftime_now('%H:%M:%S') }}{{ messages[0].content }}").render(chat("user:a")) == (
        "00:00:00a"
    )
    assert (template.clock, other.clock) == ("2026-11-22T00:00:00", "2026-03-01T00:00:00")


def test_the_clock_holds_where_the_compiled_template_was_forgotten() -> None:
    template = template_of(DATED)
    template.render(chat("user:a"))
    chat_template_utils._compile_jinja_template.cache_clear()
    assert template.render(chat("user:a")) == "22 Nov 2026|a"


def test_a_template_without_a_clock_has_no_date() -> None:
    """As Llama 3.0 has it: a date that the caller could give, else a fixed one."""
    fixed = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    template = template_of(fixed + "{{ date_string }}|{{ messages[0].content }}")
    assert template.clock is None
    assert template.render(chat("user:a")) == "26 Jul 2024|a"
    llama = fixed.replace("'26 Jul 2024'", "strftime_now('%d %b %Y')")
    assert template_of(llama + "{{ date_string }}|{{ messages[0].content }}").render(chat("user:a")) == (
        "22 Nov 2026|a"
    )


WITH_VARIABLES = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}"
    "<no thoughts>{% endif %}{% endif %}{{ reasoning_effort }}"
)


@pytest.mark.parametrize(
    "variables",
    [{}, {"enable_thinking": False}, {"enable_thinking": True, "reasoning_effort": "low"}, {"other": 1}],
)
def test_variables_reach_the_template_as_transformers_gives_them(variables: dict[str, Any]) -> None:
    template = template_of(WITH_VARIABLES)
    messages = chat("user:one", "assistant:two", "user:three")
    given = {**variables, "tokenize": False}
    expected = tokenizer_with(WITH_VARIABLES).apply_chat_template(
        messages, add_generation_prompt=True, **given
    )
    assert template.render(messages, variables) == expected
    without = tokenizer_with(WITH_VARIABLES).apply_chat_template(
        messages, add_generation_prompt=False, **given
    )
    assert template.render(messages, {**variables, "add_generation_prompt": False}) == without != expected
    # Who says that no turn begins has said whose turn it is.
    ended = messages[:2]
    assert refusal(template, ended)[0] == ErrorCode.MISSING_PARAMETER
    shown = template.render(ended, {"add_generation_prompt": False})
    assert shown == "<user>one<assistant>two"


def test_a_message_that_is_left_out_for_a_variable_is_named() -> None:
    template = template_of("{% if long %}{{ messages[0].content }}{% endif %}{{ messages[-1].content }}")
    messages = chat("user:one", "user:two")
    assert template.render(messages, {"long": True}) == "onetwo"
    with pytest.raises(RequestError, match="message 1 of 2"):
        template.render(messages, {"long": False})
    assert template.render(messages, {"long": True}) == "onetwo"
