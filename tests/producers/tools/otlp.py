"""Spans as exporters and collectors write them; for the scripts of tracing tools."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from tests.producers.asking import Run

_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def tracing() -> tuple[TracerProvider, InMemorySpanExporter]:
    """Return a provider of tracers, and where its spans are when they have ended."""
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider, kept


def write_spans(run: Run, kept: InMemorySpanExporter, folder: str = "") -> None:
    """Write the spans as the SDK's JSON, one a line, and as a collector's file exporter writes OTLP."""
    spans = kept.get_finished_spans()
    run.write(f"{folder}spans/spans.jsonl", "".join(f"{span.to_json(indent=None)}\n" for span in spans))
    # As small batches, two in a line's worth each.
    batches = [as_json(encode_spans(spans[at : at + 4])) for at in range(0, len(spans), 4)]
    run.write_lines(f"{folder}otlp/otlp.jsonl", batches)
    run.write(f"{folder}pretty/otlp.json", json.dumps(as_json(encode_spans(spans)), indent=2))


def as_json(message: Any) -> dict[str, Any]:
    """Return a message of OTLP as its JSON, in which identities are hexadecimal."""
    return _with_hex(MessageToDict(message))


def _with_hex(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_hex(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64decode(item).hex() if name in _IDS else _with_hex(item)
        for name, item in value.items()
    }
