"""OpenAI Batch input for `/v1/responses`: `{custom_id, method, url, body}`, with the text in `body.input`.

A line of another endpoint in the same object is read as OpenAI Batch input. What is no text in it (images,
files, calls of tools and what they gave) is refused by its type, under the place that it has in the messages
of the chat that the line asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.forms import responses
from tasks.extract.readers import openai_batch
from tasks.extract.readers.contract import Logged, Reader, invalid, missing, text_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.extract.readers.contract import Filtered

_URL: Final = "/responses"
_ENVELOPE: Final = frozenset({"custom_id", "method", "url", "body"})


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its url."""
    return "body" in record and _is_of_responses(record.get("url"))


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a line the chat that it asks for."""
    if not _is_of_responses(record.get("url")):
        return openai_batch.READER.read(record)
    if record.get("method") not in (None, "POST"):
        raise QuarantineError(QuarantineCode.UNSUPPORTED_METHOD, "method", "must be POST")
    body = record.get("body")
    if body is None:
        raise missing("body")
    if not isinstance(body, dict):
        raise invalid("body", "must be an object")
    made = responses.formed(body)
    others = {name: value for name, value in record.items() if name not in _ENVELOPE}
    return Logged(
        body=made.body,
        endpoint=made.endpoint,
        custom_id=text_id(record, "custom_id"),
        rest={**others, **made.rest},
    )


def _is_of_responses(url: object) -> bool:
    """Tell `/v1/responses`, also with a host before it or as other services shorten it."""
    return isinstance(url, str) and url.partition("?")[0].rstrip("/").endswith(_URL)


READER = Reader("openai-responses", "OpenAI Batch input for /v1/responses", matches, read)
