"""WildChat: `{conversation_hash, model, timestamp, conversation: [{role, content, ...}], turn, language}`.

The request is the conversation up to its last answer. Of the turns only role and content are used: others say
who asked and from where. Published as Parquet, where a list has the same fields in every element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import (
    Logged,
    Reader,
    event_time,
    label,
    text_id,
    turns_of,
    without_last_answer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_REST: Final = ("language", "turn")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a conversation by its hash and turns."""
    return "conversation_hash" in record and "conversation" in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a conversation a chat request."""
    messages = [
        {"role": turn.get("role"), "content": turn.get("content")}
        for turn in turns_of(record, "conversation")
    ]
    return Logged(
        body={"model": label(record.get("model")), "messages": without_last_answer(messages)},
        custom_id=text_id(record, "conversation_hash"),
        rest={name: record[name] for name in _REST if record.get(name) is not None},
        event_time=event_time(record, "timestamp"),
    )


READER = Reader(
    "wildchat",
    "WildChat conversations",
    matches,
    read,
    ("conversation_hash", "model", "timestamp", "conversation", *_REST),
)
