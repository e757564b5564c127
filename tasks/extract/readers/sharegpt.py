"""ShareGPT conversations: `{id, conversations: [{from, value}]}`, mostly as one JSON array.

The request is the conversation up to its last answer. Fine-tuning sets have `system` and `tools` beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms.contract import with_system
from tasks.extract.readers.contract import Logged, Reader, label, text_id, turns_of, without_last_answer
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES: Final = {
    "human": "user",
    "user": "user",
    "system": "system",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bard": "assistant",
    "bing": "assistant",
}


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a conversation by its turns."""
    turns = record.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(turns, list) and (first is None or (isinstance(first, dict) and "from" in first))


def read(record: Mapping[str, Any]) -> Logged:
    """Make a conversation a chat request."""
    messages = [
        {"role": ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
        for turn in turns_of(record, "conversations")
    ]
    system = record.get("system") or record.get("system_prompt")
    body: dict[str, Any] = {"messages": with_system(system, without_last_answer(messages))}
    body = with_tools(body, record)
    if model := label(record.get("model")):
        body["model"] = model
    return Logged(body=body, custom_id=text_id(record, "id"))


READER = Reader("sharegpt", "ShareGPT conversations", matches, read)
