"""Azure LLM inference traces: `TIMESTAMP` (UTC, 7 fractional digits), `ContextTokens`, `GeneratedTokens`.

The multimodal trace adds `NumImages`. Files of lengths alone, such as those of ShareGPT that come with
NanoFlow, have the same columns with `XXX` for a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Logged, Reader, Shape, event_time, required_count

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_TIME: Final = "XXX"


def matches(record: Mapping[str, Any]) -> bool:
    """Tell the trace by its columns."""
    return {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged:
    """Make a row a request of known lengths."""
    images = record.get("NumImages")
    return Logged(
        shape=Shape(required_count(record, "ContextTokens")),
        endpoint="completions",
        rest={} if images in (None, "") else {"NumImages": required_count(record, "NumImages")},
        event_time=None if record.get("TIMESTAMP") == NO_TIME else event_time(record, "TIMESTAMP"),
        output_tokens=required_count(record, "GeneratedTokens"),
    )


READER = Reader("azure-llm", "Azure LLM traces (also multimodal) and length files", matches, read)
