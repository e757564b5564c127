"""OpenAI Batch input for `/v1/responses`: `{custom_id, method, url, body}`, with the text in `body.input`.

It is read by the reader of OpenAI Batch input, as lines of other endpoints in the same object are. What is
no text, image or call of a function in it (files, calls of the service's own tools) is refused by its type,
under the place that it has in the messages of the chat that the line asks for. Its answer comes in that API's
own form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.readers import openai_batch
from tasks.extract.readers.contract import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its url."""
    return "body" in record and openai_batch.is_of_responses(record.get("url"))


READER = Reader("openai-responses", "OpenAI Batch input for /v1/responses", matches, openai_batch.read)
