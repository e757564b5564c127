"""An answer as text -> its text and its calls of tools, read by `transformers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tasks.base.identity import digest
from tasks.tools.forms import FORMS, OWN

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHORT: Final = 9
"""Characters of an id that Mistral's templates take."""


def read_calls(
    text: str, form: str, name: str, response_template: Mapping[str, Any] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of an answer and its calls in OpenAI's form; none where the answer has none.

    What looks like a call and is none (its JSON is cut or wrong, it has no name) stays text.

    Parameters
    ----------
    text
        The whole answer, special tokens included.
    form
        A key of `tasks.tools.forms.FORMS`, or `OWN`.
    name
        What the ids of the calls are made of: the same for the same answer.
    response_template
        Of the tokenizer, for `OWN`.
    """
    # For those alone who have answers with tools.
    from transformers.utils.chat_parsing import parse_response

    spec = response_template if form == OWN else FORMS[form].response_template
    try:
        message = parse_response(text, dict(spec or {}), prefix="")
    except (ValueError, KeyError, TypeError):
        return text, []
    found = message.get("tool_calls") or []
    calls = [_call(call, form, name, index) for index, call in enumerate(found)]
    if not calls or None in calls:
        return text, []
    return str(message.get("content") or "").strip(), [call for call in calls if call is not None]


def _call(call: object, form: str, name: str, index: int) -> dict[str, Any] | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    called, arguments = function.get("name"), function.get("arguments")
    if not isinstance(called, str) or not called or not isinstance(arguments, dict):
        return None
    own = digest("call", name, index)
    return {
        "id": own[:_SHORT] if form.startswith("mistral") else f"call_{own[:24]}",
        "type": "function",
        "function": {"name": called, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
