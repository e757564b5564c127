"""How a model writes its calls of tools, as its own chat template writes those of earlier turns.

A template is asked to render an answer with a call that occurs nowhere else. What stands around that call is
the form: of Hermes and Qwen, of Llama 3 in JSON, of Mistral before and since its eleventh tokenizer. Any
other is refused by name, unless the tokenizer itself says how its answers are read (`response_template`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OWN: Final = "response_template"
"""The form of a model whose tokenizer says itself how its answers are read; calls cannot be enforced."""
NAME: Final = "qzjxname"
KEY: Final = "qzjxkey"
VALUE: Final = "qzjxvalue"
ID: Final = "qzjxabcde"
"""Of the call that is rendered; the id is one that Mistral's templates take."""
_ARGUMENTS: Final = rf'\{{"{KEY}"(?P<colon>:\s*)"{VALUE}"\}}'
# Of answers alone: what came before is another matter.
_ALONE: Final = {"start_anchor": "\0"}
_TEXT: Final = {"content": "text", "content_args": {"strip": False}, "repeats": True, "join": ""}


def _call(arguments: str = "{content.arguments}", name: str = "{content.name}") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@dataclass(frozen=True)
class Form:
    """A form of calls.

    Attributes
    ----------
    name
        What it is called.
    patterns
        Regular expressions of a rendered call with `NAME`, `KEY` and `VALUE`. Their groups are `begin`
        (before the first call), `before`, `colon` (between a key and its value), `after` and `end`.
    response_template
        How an answer is read, for `transformers`.
    between
        Between two calls; None: an answer has one alone.
    marker, begins
        What tells a call from text: a marker anywhere, or at the answer's beginning alone.
    special
        Whether what marks calls may be tokens that the text of an answer is without.
    """

    name: str
    patterns: tuple[str, ...]
    response_template: Mapping[str, Any]
    between: str | None
    marker: str
    begins: bool = False
    special: bool = False


FORMS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        Form(
            "hermes",
            (
                (
                    rf'(?P<begin><tool_call>\n?)(?P<before>\{{\s*"name":\s*"{NAME}",\s*"arguments":\s*)'
                    rf"{_ARGUMENTS}(?P<after>\}})(?P<end>\n?</tool_call>)"
                ),
                (
                    rf'(?P<begin><tool_call>\n?)(?P<before>\{{\s*"arguments":\s*){_ARGUMENTS}'
                    rf'(?P<after>,\s*"name":\s*"{NAME}"\}})(?P<end>\n?</tool_call>)'
                ),
            ),
            {
                **_ALONE,
                "fields": {
                    "content": _TEXT,
                    "tool_calls": {
                        "open": "<tool_call>",
                        "close": "</tool_call>",
                        "content": "json",
                        "repeats": True,
                        "transform": _call(),
                    },
                },
            },
            between="\n",
            marker="<tool_call>",
        ),
        Form(
            "mistral",
            (
                (
                    rf'(?P<begin>\[TOOL_CALLS\]\s*\[)(?P<before>\{{"name":\s*"{NAME}",\s*"arguments":\s*)'
                    rf'{_ARGUMENTS}(?:,\s*"id":\s*"{ID}")?(?P<after>\}})(?P<end>\])'
                ),
            ),
            {
                **_ALONE,
                "fields": {
                    "content": _TEXT,
                    "tool_calls": {
                        "open": "[TOOL_CALLS]",
                        "content": "json",
                        "transform": _call("{arguments}", "{name}"),
                        "transform_each": True,
                    },
                },
            },
            between=", ",
            marker="[TOOL_CALLS]",
            special=True,
        ),
        Form(
            "mistral-args",
            (
                (
                    rf"(?P<begin>\[TOOL_CALLS\])(?P<before>{NAME}(?:\[CALL_ID\]{ID})?\[ARGS\]){_ARGUMENTS}"
                    r"(?P<after>)(?P<end>)"
                ),
            ),
            {
                **_ALONE,
                "fields": {
                    "content": _TEXT,
                    "tool_calls": {
                        "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\]]+)(?:\[CALL_ID\]\w+)?\[ARGS\]",
                        "close_pattern": r"(?=\[TOOL_CALLS\])",
                        "content": "json",
                        "repeats": True,
                        "transform": _call("{content}", "{name}"),
                    },
                },
            },
            between="[TOOL_CALLS]",
            marker="[TOOL_CALLS]",
            special=True,
        ),
        Form(
            "llama3-json",
            (
                (
                    rf'(?P<begin>)(?P<before>\{{"name":\s*"{NAME}",\s*"parameters":\s*){_ARGUMENTS}'
                    r"(?P<after>\})(?P<end>)"
                ),
            ),
            {
                **_ALONE,
                "fields": {
                    "content": _TEXT,
                    "tool_calls": {
                        "open_pattern": r"\A(?:<\|python_tag\|>)?(?=\{)",
                        "content": "json",
                        "repeats": True,
                        "transform": _call("{content.parameters}"),
                    },
                },
            },
            between=None,
            marker="{",
            begins=True,
        ),
    )
}
"""Name -> form."""


@dataclass(frozen=True)
class ToolForm:
    """The form of one model.

    Attributes
    ----------
    name
        A key of `FORMS`, or `OWN`.
    begin, before, after, end, between
        The texts around calls; of `before` and `after` the function's name is `NAME`. Of `OWN` nothing is
        known.
    colon
        What stands between a key and its value.
    """

    name: str
    begin: str = ""
    before: str = ""
    after: str = ""
    end: str = ""
    between: str | None = None
    colon: str = ": "

    @property
    def comma(self) -> str:
        """What stands between two values, as Python's `json` has it beside such a colon."""
        return ", " if self.colon.endswith(" ") else ","


def find_form(render: Callable[[list[dict[str, Any]]], str], response_template: object) -> ToolForm | None:
    """Return how a model writes calls; None where nobody can tell.

    Parameters
    ----------
    render
        Renders messages in their normal form, an answer last, without a new turn. Raises `ValueError` where
        the template refuses.
    response_template
        Of the tokenizer, if it has one.
    """
    try:
        text = render(_probe())
    except ValueError:
        text = ""
    for form in FORMS.values():
        found = next(filter(None, (re.search(pattern, text) for pattern in form.patterns)), None)
        if found is None:
            continue
        around = {name: found[name] for name in ("begin", "before", "after", "end")}
        between = form.between
        if form.name == "hermes":
            between = f"{around['end']}{form.between}{around['begin']}"
        # An id between name and arguments is the server's to give.
        around["before"] = around["before"].replace(f"[CALL_ID]{ID}", "")
        return ToolForm(form.name, **around, between=between, colon=found["colon"])
    fields = response_template.get("fields", {}) if isinstance(response_template, dict) else {}
    return ToolForm(OWN) if "tool_calls" in fields else None


def _probe() -> list[dict[str, Any]]:
    function = {"name": NAME, "arguments": json.dumps({KEY: VALUE})}
    call = {"id": ID, "type": "function", "function": function}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    return [{"role": "user", "content": "a"}, answer]
