"""What a chat body says to the chat template beside its messages, in one form.

`chat_template_kwargs` (vLLM, SGLang) are variables of the template, `reasoning_effort` (OpenAI) is one more,
as vLLM has it. A template that does not look at a variable renders the same prompt without it. They are kept
as JSON, in which `add_generation_prompt` is there if it is false: the prompt then ends with the last message,
and no turn of the assistant begins.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ErrorCode, RequestError, bounded
from tasks.base.identity import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

KWARGS: Final = "chat_template_kwargs"
EFFORT: Final = "reasoning_effort"
BEGINS: Final = "add_generation_prompt"
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_TAKEN: Final = frozenset(
    {
        *("add_generation_prompt", "bos_token", "chat_template", "continue_final_message", "conversation"),
        *("documents", "eos_token", "max_length", "messages", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "tokenize", "tokenizer_kwargs", "tools", "truncation"),
    }
)
"""Names that rendering itself gives a meaning."""


def template_variables(body: Mapping[str, Any]) -> dict[str, str]:
    """Return `{"chat_template_kwargs": JSON}` of a chat body; nothing where it says nothing.

    Raises
    ------
    RequestError
        `invalid_parameter`, naming the field.
    """
    given, effort, begins = (body.get(name) for name in (KWARGS, EFFORT, BEGINS))
    if given is not None and not isinstance(given, dict):
        raise RequestError(ErrorCode.INVALID_PARAMETER, KWARGS, "must be an object")
    found = dict(given or {})
    for name in sorted(found.keys() & _TAKEN):
        message = "is none of the template's own variables"
        raise RequestError(ErrorCode.INVALID_PARAMETER, f"{KWARGS}.{bounded(name, 64)}", message)
    if effort is not None:
        if effort not in _EFFORTS:
            raise RequestError(ErrorCode.INVALID_PARAMETER, EFFORT, f"must be one of {', '.join(_EFFORTS)}")
        if found.setdefault(EFFORT, effort) != effort:
            message = f"{KWARGS} has another one"
            raise RequestError(ErrorCode.INVALID_PARAMETER, EFFORT, message)
    if begins is not None and not isinstance(begins, bool):
        raise RequestError(ErrorCode.INVALID_PARAMETER, BEGINS, "must be true or false")
    if begins is False and body.get("continue_final_message") is not True:
        found[BEGINS] = False
    return {KWARGS: canonical_json(found)} if found else {}


def variables_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of a row of the requests table, a false `add_generation_prompt` among them."""
    text = more_settings(row).get(KWARGS)
    return json.loads(text) if text else {}


def more_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a row of the requests table that its column `sampling` has no place for."""
    text = row.get("settings_json")
    return json.loads(text) if text else {}
