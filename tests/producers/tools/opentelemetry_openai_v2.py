"""OpenTelemetry's instrumentation of the OpenAI client: content on the spans, or in events (log records)."""

import os
import subprocess
import sys

from openai import OpenAI
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from tests.producers.asking import by_openai, running
from tests.producers.tools.otlp import as_json, tracing, write_spans

MODE = "NIGHTBLEND_CONTENT_IN"
WAYS = {
    "span_only": ("gen_ai_latest_experimental", "span_only"),
    "event_only": ("gen_ai_latest_experimental", "event_only"),
    "older_events": ("", "true"),
}

if __name__ == "__main__":
    if MODE not in os.environ:
        # What is recorded is decided when the package is loaded.
        for name, (opt_in, capture) in WAYS.items():
            settings = {
                MODE: name,
                "OTEL_SEMCONV_STABILITY_OPT_IN": opt_in,
                "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": capture,
                "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": str(capture == "event_only").lower(),
            }
            out = f"{sys.argv[1]}/{name}"
            os.makedirs(out)  # noqa: PTH103
            command = [sys.executable, "-m", "tests.producers.tools.opentelemetry_openai_v2", out]
            subprocess.run(command, check=True, env={**os.environ, **settings})
        sys.exit()
    with running("opentelemetry-instrumentation-openai-v2", "opentelemetry-util-genai", "openai") as run:
        provider, kept = tracing()
        events, records = LoggerProvider(), InMemoryLogRecordExporter()
        events.add_log_record_processor(SimpleLogRecordProcessor(records))
        OpenAIInstrumentor().instrument(tracer_provider=provider, logger_provider=events)
        run.each(by_openai(OpenAI(base_url=f"{run.api.url}/v1", api_key="none", max_retries=0)))
        write_spans(run, kept)
        logs = records.get_finished_logs()
        if logs:
            batches = [as_json(encode_logs(logs[at : at + 4])) for at in range(0, len(logs), 4)]
            run.write_lines("events/logs.jsonl", batches)
            # A collector writes both to one file, the spans of a call after its events.
            lines = [run.out / name for name in ("events/logs.jsonl", "otlp/otlp.jsonl")]
            run.write("both/all.jsonl", b"".join(path.read_bytes() for path in lines))
