"""Rows of the table outputs, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def answered(**columns: Any) -> dict[str, Any]:
    """Return a row with what an output line is made of."""
    return {
        "request_id": "0123456789abcdef" * 4,
        "custom_id": "a",
        "source_uri": "s3://logs/day",
        "source_line": 1,
        "endpoint": "chat",
        "passthrough_json": None,
        "text": "Yes.",
        "finish_reason": "stop",
        "choices": None,
        "tool_calls_json": None,
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 1},
        "finished_at": datetime(2026, 11, 22, 3, tzinfo=UTC),
        "run_key": "k",
        **columns,
    }


def token(text: str, logprob: float) -> dict[str, Any]:
    """Return a token of a choice with its log probability and itself as the only alternative."""
    own = {"token_id": 1, "bytes": text.encode(), "logprob": logprob}
    return {**own, "top": [own]}
