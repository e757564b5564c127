"""Anthropic message batches: `{custom_id, params}`; `params` is the body of a call of `/v1/messages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.forms import anthropic
from tasks.extract.readers.contract import Logged, Reader, invalid, missing, text_id

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its parameters."""
    return "custom_id" in record and "params" in record and "body" not in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a line the chat that it asks for."""
    params = record.get("params")
    if params is None:
        raise missing("params")
    if not isinstance(params, dict):
        raise invalid("params", "must be an object")
    made = anthropic.formed(params)
    others = {name: value for name, value in record.items() if name not in {"custom_id", "params"}}
    return Logged(body=made.body, custom_id=text_id(record, "custom_id"), rest={**others, **made.rest})


READER = Reader("anthropic-batch", "Anthropic message batches", matches, read)
