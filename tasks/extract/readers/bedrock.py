"""Bedrock batch input: `{recordId, modelInput}`, where `modelInput` has the form of the model's family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.forms import bedrock
from tasks.extract.readers.contract import Logged, Reader, invalid, missing, text_id

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a record by its model input."""
    return "modelInput" in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a record a chat or completions request."""
    given = record.get("modelInput")
    if given is None:
        raise missing("modelInput")
    if not isinstance(given, dict):
        raise invalid("modelInput", "must be an object")
    made = bedrock.formed(given)
    if "modelId" in record:
        made.body.setdefault("model", record["modelId"])
    return Logged(
        body=made.body, endpoint=made.endpoint, custom_id=text_id(record, "recordId"), rest=made.rest
    )


READER = Reader("bedrock", "Bedrock batch input", matches, read)
