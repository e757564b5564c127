"""OpenTelemetry spans of generative AI calls, one JSON object each, in OTLP batches or in tables.

Spans are read by the conventions that their attributes are of: `genai` (OpenTelemetry's, OpenLLMetry's), and
`openinference` (Phoenix, Arize), `mlflow`, and `langfuse_spans`. Other spans of a trace are filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers import genai, langfuse_spans, mlflow, openinference, span_events
from tasks.extract.readers.contract import Filtered, Logged, Reader
from tasks.extract.readers.spans import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONVENTIONS: Final = (genai, openinference, mlflow, langfuse_spans)


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a span by an attribute of the conventions."""
    found = attributes(record)
    return any(convention.recognises(found) for convention in _CONVENTIONS)


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a span of a model call a request."""
    name = span_events.event_name(record)
    if name is not None:
        return span_events.read_event(record, name)
    found = attributes(record)
    if langfuse_spans.recognises(found) and not _has_prompt(found):
        return langfuse_spans.read_span(record, found)
    if mlflow.recognises(found) and not _has_prompt(found):
        return mlflow.read_span(record, found)
    if openinference.recognises(found) and not _has_prompt(found):
        return openinference.read_span(record, found)
    if genai.recognises(found):
        return genai.read_span(record, found)
    return Filtered("span of no model call")


def _has_prompt(found: Mapping[str, Any]) -> bool:
    """Tell a span of two conventions whose prompt is under the names of GenAI."""
    return genai.recognises(found) and any(
        name.startswith(("gen_ai.input.messages", "gen_ai.prompt")) for name in found
    )


READER = Reader("otel", "Spans: OpenTelemetry GenAI, OpenInference, MLflow, Langfuse", matches, read)
