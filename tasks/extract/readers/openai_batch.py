"""OpenAI Batch input: `{custom_id, method, url, body}`, and what others send in its form.

Choices a sender may notice:

- `url` is the path of chat or text completions, or of embeddings, as anyone serves them: with or without
  `/v1`, below another path (`/openai/deployments/NAME/chat/completions?api-version=...`), or as a whole
  address.
- Without `url` (Mistral, Together, Fireworks) the body tells: `messages` is a chat, `prompt` a completion.
  An `input` may be a request of `/v1/responses` or of `/v1/embeddings`, so it is refused.
- A line for `/v1/embeddings` may have many inputs: its answer has as many vectors, in their order.
- A line for `/v1/responses` is read as `openai-responses` reads it, so that one file may hold both.
- `custom_id` may be absent; the request is then known by its content. `method` may be absent, else POST.
- `body.metadata.workload` and `body.metadata.tenant` (strings) fill the columns of that name. The default
  workload is `default`, not the file's name: nightly exports are cut into parts whose names say nothing.
- A message's content given as text parts is joined without a separator, as chat templates do.
- `prompt` may be a text, a list of token ids, or a list with one such prompt. Several prompts in one request
  would need several answers and are refused.
- `model` is kept as `requested_model`; the run's model answers.
- If a JSON object repeats a name, the last one counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.forms import responses
from tasks.extract.readers.contract import Logged, Reader, invalid, missing, text_id, unrecognised
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.requests.sampling import Endpoint

_ENDPOINTS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": EMBEDDINGS,
}
_CHAT: Final = "/chat/completions"
_TEXT: Final = "/completions"
_EMBEDDINGS: Final = "/embeddings"
_RESPONSES: Final = "/responses"
_ADDRESS: Final = re.compile(r"(?:https?://[^/\s?#]+)?((?:/[^/\s?#]+)+)(?:\?[^\s#]*)?", re.IGNORECASE)
_ENVELOPE: Final = frozenset({"custom_id", "method", "url", "body"})
_CONTENT: Final = ("messages", "prompt", "input")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its envelope."""
    if "body" not in record or "url" in record:
        return "body" in record
    body = record["body"]
    return "custom_id" in record and isinstance(body, dict) and any(name in body for name in _CONTENT)


def read(record: Mapping[str, Any]) -> Logged:
    """Make a line the request that it is."""
    if is_of_responses(record.get("url")):
        return _read_responses(record)
    endpoint, custom_id, body = _read_envelope(record)
    rest = {} if record.keys() <= _ENVELOPE else {k: v for k, v in record.items() if k not in _ENVELOPE}
    return Logged(body=body, endpoint=endpoint, custom_id=custom_id, rest=rest)


def is_of_responses(url: object) -> bool:
    """Tell `/v1/responses`, also with a host before it or as other services shorten it."""
    return isinstance(url, str) and url.partition("?")[0].rstrip("/").endswith(_RESPONSES)


def _read_responses(record: Mapping[str, Any]) -> Logged:
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
        told_again=responses.told_again(body),
    )


def _read_envelope(record: Mapping[str, Any]) -> tuple[Endpoint, str | None, dict[str, Any]]:
    """Return endpoint, `custom_id` and body of a record.

    Raises
    ------
    QuarantineError
        If they do not make a request.
    """
    custom_id = record.get("custom_id")
    if custom_id is not None and (not isinstance(custom_id, str) or not custom_id):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "custom_id", "must be a string, not empty")
    method = record.get("method")
    if method is not None and method != "POST":
        raise QuarantineError(QuarantineCode.UNSUPPORTED_METHOD, "method", "must be POST")
    body, url = record.get("body"), record.get("url")
    if body is None and url is None:
        raise QuarantineError(QuarantineCode.MISSING_FIELD, "url", unrecognised(record))
    if body is None:
        raise QuarantineError(QuarantineCode.MISSING_FIELD, "body", "the line has no body")
    endpoint = _endpoint_of(url) if url is not None else None
    if not isinstance(body, dict):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "body", "must be an object")
    return endpoint or _endpoint_for(body), custom_id, body


def _endpoint_of(url: object) -> Endpoint:
    """Return what is asked for at an address."""
    if not isinstance(url, str):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "url", "must be a string")
    endpoint = _ENDPOINTS.get(url)
    if endpoint is None and (match := _ADDRESS.fullmatch(url)) is not None:
        path = match[1]
        ends: dict[str, Endpoint] = {_CHAT: "chat", _TEXT: "completions", _EMBEDDINGS: EMBEDDINGS}
        endpoint = next((found for end, found in ends.items() if path.endswith(end)), None)
    if endpoint is None:
        known = " or ".join((*_ENDPOINTS, "/v1/responses"))
        raise QuarantineError(QuarantineCode.UNSUPPORTED_URL, "url", f"must be {known}")
    return endpoint


def _endpoint_for(body: Mapping[str, Any]) -> Endpoint:
    """Return what a body without an address asks for."""
    if body.get("messages") is not None:
        return "chat"
    if body.get("prompt") is not None:
        return "completions"
    if body.get("input") is not None:
        message = "is of /v1/responses or /v1/embeddings, and no url tells which; name it"
        raise QuarantineError(QuarantineCode.UNSUPPORTED_URL, "body.input", message)
    message = "the line has no url, and its body neither messages nor prompt"
    raise QuarantineError(QuarantineCode.MISSING_FIELD, "url", message)


READER = Reader("openai-batch", "OpenAI Batch input", matches, read)
