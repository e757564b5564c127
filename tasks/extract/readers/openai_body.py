"""Bodies of OpenAI calls, one a line, without an envelope; and examples for fine-tuning, which look alike.

A line is `{"messages": [...]}` or `{"model": ..., "prompt": ...}` with the fields of a body. Choices a sender
may notice:

- The last message of an example for fine-tuning is the assistant's: the answer that was logged. What was
  asked is everything before it. A body that asks to go on with that message (`continue_final_message`) keeps
  it.
- `weight` of a message and `completion` of an example say how a model is trained, and change no answer.
- `custom_id`, `request_id` or `id` is the name of the request; `event_time`, or of a body `created` or
  `created_at`, is when it was made.
- A record that names a model or a setting is a body: its other fields count as those of the body, and what is
  not supported is refused by name. Else it is a row of a data set: fields that no server knows come back with
  the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Logged, Reader, event_time, text_id, without_last_answer
from tasks.extract.readers.tools import NAMES as TOOLS
from tasks.requests.sampling import CONTENT_FIELD, HONOURED, NEUTRAL, WITHOUT_EFFECT
from tasks.requests.structured import FIELDS as CONSTRAINTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.requests.sampling import Endpoint

_NAMES: Final = ("custom_id", "request_id", "id")
_GOES_ON: Final = ("continue_final_message", "add_generation_prompt")
_TIMES: Final = ("event_time", "created", "created_at")
"""Of a row of a data set the first alone counts: it was created on another day than it is asked."""
_OF_LOGS: Final = frozenset({"call_type", "response", "choices", "usage", "modelId"})
"""Fields of logs of calls and of Converse, which other readers know."""
_SETTINGS: Final = HONOURED | {"model"}
_OF_BODIES: Final = frozenset(
    {
        *(*_SETTINGS, *CONSTRAINTS, *NEUTRAL, *WITHOUT_EFFECT, *_GOES_ON, "messages"),
        *(
            "bad_words",
            "chat_template",
            "chat_template_kwargs",
            "documents",
            "extra_body",
            "grammar",
            "input",
        ),
        *("thinking", "system", "system_prompt", "instructions", *TOOLS),
    }
)
"""Fields that servers know; some change the answer and are not supported."""


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a body by its messages, which have roles, or by model and prompt."""
    if not _OF_LOGS.isdisjoint(record):
        return False
    messages = record.get("messages")
    if isinstance(messages, list) and messages:
        return all(isinstance(message, dict) and "role" in message for message in messages)
    return isinstance(record.get("prompt"), str) and ("model" in record or "completion" in record)


def read(record: Mapping[str, Any]) -> Logged:
    """Make a body the request that it is."""
    endpoint: Endpoint = "chat" if "messages" in record else "completions"
    body = {key: value for key, value in record.items() if key != "completion"}
    name = next((name for name in _NAMES if body.get(name) not in (None, "")), None)
    of_body = not record.keys().isdisjoint(_SETTINGS)
    times = _TIMES if of_body else _TIMES[:1]
    at = next((name for name in times if body.get(name) is not None), None)
    logged = Logged(
        body=body,
        endpoint=endpoint,
        custom_id=None if name is None else text_id(record, name),
        event_time=None if at is None else event_time(record, at),
    )
    for known in (name, at):
        body.pop(known or "", None)
    if not of_body:
        own = _OF_BODIES | {CONTENT_FIELD[endpoint]}
        logged.rest = {key: body.pop(key) for key in record if key in body and key not in own}
    messages = body.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        # The body decides where its last message is not the answer; else it is refused by name.
        asked = messages if any(name in body for name in _GOES_ON) else without_last_answer(messages)
        body["messages"] = [{k: v for k, v in message.items() if k != "weight"} for message in asked]
    return logged


READER = Reader("openai-body", "Bodies of OpenAI calls, examples for fine-tuning", matches, read)
