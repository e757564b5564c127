"""OpenAI Batch input: `{custom_id, method, url, body}`.

Choices a sender may notice:

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

from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.readers.contract import Logged, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.requests.sampling import Endpoint

_ENDPOINTS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
}
_ENVELOPE: Final = frozenset({"custom_id", "method", "url", "body"})


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its envelope."""
    return "body" in record and "url" in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a line the request that it is."""
    endpoint, custom_id, body = _read_envelope(record)
    rest = {} if record.keys() <= _ENVELOPE else {k: v for k, v in record.items() if k not in _ENVELOPE}
    return Logged(body=body, endpoint=endpoint, custom_id=custom_id, rest=rest)


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
    for name in ("url", "body"):
        if record.get(name) is None:
            raise QuarantineError(QuarantineCode.MISSING_FIELD, name, f"the line has no {name}")
    url, body = record["url"], record["body"]
    if not isinstance(url, str):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "url", "must be a string")
    if url not in _ENDPOINTS:
        known = " or ".join(_ENDPOINTS)
        raise QuarantineError(QuarantineCode.UNSUPPORTED_URL, "url", f"must be {known}")
    if not isinstance(body, dict):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "body", "must be an object")
    return _ENDPOINTS[url], custom_id, body


READER = Reader("openai-batch", "OpenAI Batch input", matches, read)
