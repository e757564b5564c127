"""OpenAI Batch input: `{custom_id, method, url, body}`; see `tasks.requests.openai_batch` for its rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.readers.contract import Logged, Reader
from tasks.requests.openai_batch import ENVELOPE, read_envelope

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its envelope."""
    return "body" in record and "url" in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a line the request that it is."""
    endpoint, custom_id, body = read_envelope(record)
    rest = {} if record.keys() <= ENVELOPE else {k: v for k, v in record.items() if k not in ENVELOPE}
    return Logged(body=body, endpoint=endpoint, custom_id=custom_id, rest=rest)


READER = Reader("openai-batch", "OpenAI Batch input", matches, read)
