"""OpenTelemetry spans of generative AI calls, one JSON object each, in OTLP batches or in tables.

Spans are read by the conventions that their attributes are of: `genai` (OpenTelemetry's, OpenLLMetry's), and
`openinference` (Phoenix, Arize), and `mlflow`. Other spans of a trace are filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.readers import genai, mlflow, openinference
from tasks.extract.readers.contract import Filtered, Logged, Reader
from tasks.extract.readers.spans import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a span by an attribute of the conventions."""
    found = attributes(record)
    return any(convention.recognises(found) for convention in (genai, openinference, mlflow))


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a span of a model call a request."""
    found = attributes(record)
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


READER = Reader("otel", "Spans: OpenTelemetry GenAI, OpenInference, MLflow", matches, read)
