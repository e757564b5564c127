"""The logs that the tools leave, and what each is known to leave out: as tried with the pinned versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.producers.calls import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERY: None = None
TABLE_COLUMNS = {
    name: name
    for name in (
        "custom_id",
        "messages",
        "prompt",
        "system",
        "model",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "event_time",
        "output_tokens",
    )
}


@dataclass(frozen=True)
class Log:
    """One log.

    Attributes
    ----------
    tool, packages
        What a person calls the tool, and the packages that wrote the log.
    script, folder
        Who makes it, and where it lies below the folder of the script.
    form
        What it is made of, for the table.
    format
        By which reader it is read.
    sent
        Which of the calls of its script are in it: their `log`.
    columns
        As given to `--columns`.
    leaves_out
        Fields of a call that are not in it; in which calls, or EVERY.
    lengths
        Calls of which it has the number of prompt tokens alone.
    missing
        Calls that are not in it at all.
    times, latency, outputs
        Whether it tells when a call was made, how long it took, and the length of the answer.
    no_output
        Calls of which it does not tell the length of the answer, or a wrong one.
    model
        As it tells it.
    changed
        Fields that the tool itself gives a call; "" stands for every call that does not set them.
    refused_as
        Calls that are refused by another field than they would be by the body.
    beside
        Reasons for which records beside the calls are filtered.
    twice
        Calls that the tool may record twice, both times as sent.
    cached
        Whether it tells the prompt tokens that the server took from its cache; None where no server answered.
    notes
        What else is left out, in words, for the table.
    """

    tool: str
    packages: tuple[str, ...]
    script: str
    folder: str
    form: str
    format: str
    sent: str = ""
    columns: Mapping[str, str] | None = None
    leaves_out: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    lengths: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    times: bool = True
    latency: bool = True
    outputs: bool = True
    no_output: frozenset[str] = frozenset()
    model: str | None = MODEL
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused_as: Mapping[str, str] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    twice: frozenset[str] = frozenset()
    cached: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.script}/{self.folder}"


def calls(*names: str) -> frozenset[str]:
    return frozenset(names)


BATCH: Mapping[str, Any] = {"times": False, "latency": False, "outputs": False}
_OI = ("openinference-instrumentation-openai",)
_TL = ("opentelemetry-instrumentation-openai",)
_V2 = ("opentelemetry-instrumentation-openai-v2", "opentelemetry-util-genai")
_ML = ("mlflow-skinny",)
_LF = ("langfuse",)
_LL = ("litellm",)


def _each(folders: Mapping[str, str], **common: Any) -> list[Log]:
    return [Log(folder=folder, form=form, **common) for folder, form in folders.items()]


_TEXTS = calls("text", "text with settings")
TABLES = (
    ("pandas", "pandas-lines-jsonl", "JSON lines"),
    ("pandas", "pandas-iso-jsonl", "JSON lines with ISO times"),
    ("pandas", "pandas-gzip-gz", "JSON lines, gzip"),
    ("pandas", "pandas-records-json", "JSON array"),
    ("pandas", "pandas-indented-json", "JSON array, indented"),
    ("pandas", "pandas-table-json", "JSON, `orient=table`"),
    ("pandas", "pandas-columns-json", "JSON, `orient=columns`"),
    ("pandas", "pandas-index-json", "JSON, `orient=index`"),
    ("pandas", "pandas-split-json", "JSON, `orient=split`"),
    ("pandas", "pandas-plain-csv", "CSV"),
    ("pandas", "pandas-indexed-csv", "CSV with index"),
    ("pandas", "pandas-plain-parquet", "Parquet"),
    ("Polars", "polars-lines-ndjson", "JSON lines"),
    ("Polars", "polars-array-json", "JSON array"),
    ("Polars", "polars-plain-csv", "CSV"),
    ("Polars", "polars-plain-parquet", "Parquet"),
    ("DuckDB", "duckdb-lines-jsonl", "JSON lines"),
    ("DuckDB", "duckdb-array-json", "JSON array"),
    ("DuckDB", "duckdb-plain-csv", "CSV"),
    ("DuckDB", "duckdb-plain-parquet", "Parquet"),
    ("PyArrow", "pyarrow-plain-csv", "CSV"),
    ("PyArrow", "pyarrow-plain-parquet", "Parquet"),
    ("PyArrow", "pyarrow-nanoseconds-parquet", "Parquet, nanoseconds"),
    ("fastparquet", "fastparquet-int96-parquet", "Parquet, INT96"),
    ("fastparquet", "fastparquet-plain-parquet", "Parquet"),
    ("datasets", "datasets-lines-jsonl", "JSON lines"),
    ("datasets", "datasets-plain-csv", "CSV"),
    ("datasets", "datasets-plain-parquet", "Parquet"),
)
SPANS = {
    "spans": "spans, JSON lines of the SDK",
    "otlp": "OTLP, a batch a line",
    "pretty": "OTLP, one document",
}
UNCOUNTED = calls("streaming with settings")
"""Streamed without `include_usage`: the server does not tell the length."""
_OTEL: Mapping[str, Any] = {
    "packages": _V2,
    "script": "opentelemetry_openai_v2",
    "format": "otel",
    "leaves_out": dict.fromkeys(
        ("max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice", "top_k"), EVERY
    ),
    "no_output": UNCOUNTED,
    "cached": False,
}
_JSON: Mapping[str, str] = {"json answer": "response_format"}
"""That JSON was asked for is recorded, and not of which schema."""
_LANGFUSE: Mapping[str, Any] = {
    "tool": "Langfuse",
    "packages": _LF,
    "script": "langfuse",
    "leaves_out": {
        **dict.fromkeys(("stop", "logprobs", "top_logprobs", "top_k"), EVERY),
        "temperature": calls("usual values"),
        "top_p": calls("usual values"),
    },
    "no_output": UNCOUNTED,
    "cached": True,
}

LOGS: tuple[Log, ...] = (
    *_each(
        SPANS,
        tool="OpenInference",
        packages=_OI,
        script="openinference",
        format="otel",
        cached=True,
        leaves_out={"top_k": EVERY},
        no_output=UNCOUNTED,
    ),
    *_each(
        SPANS,
        tool="OpenLLMetry",
        packages=_TL,
        script="traceloop",
        format="otel",
        cached=True,
        leaves_out=dict.fromkeys(
            ("max_completion_tokens", "seed", "stop", "n", "logprobs", "top_logprobs", "top_k"), EVERY
        ),
        no_output=UNCOUNTED,
    ),
    *_each(
        {f"span_only/{folder}": form for folder, form in SPANS.items()},
        tool="OpenTelemetry, content on spans",
        lengths=calls("parts"),
        refused_as={**_JSON, "tool result": "messages[1].content[0].type"},
        notes=("text given as parts", "text completions"),
        missing=_TEXTS,
        **_OTEL,
    ),
    *_each(
        {"event_only/both": "spans and events in one file, OTLP"},
        tool="OpenTelemetry, content in events",
        lengths=calls("parts"),
        refused_as={**_JSON, "tool result": "messages[1].content[0].type"},
        beside=calls("event, read with its span"),
        notes=("text given as parts", "text completions"),
        missing=_TEXTS,
        **_OTEL,
    ),
    *_each(
        {"event_only/events": "events without their spans, OTLP"},
        tool="OpenTelemetry, content in events",
        lengths=calls("parts"),
        refused_as={**_JSON, "tool result": "messages[1].content[0].type"},
        latency=False,
        missing=_TEXTS | {"embedding"},
        notes=("text given as parts", "text completions", "how long a call took"),
        **_OTEL,
    ),
    *_each(
        {"older_events/both": "spans and events in one file, OTLP"},
        tool="OpenTelemetry, content in events of older conventions",
        refused_as=_JSON,
        beside=calls("event, read with its span", "event gen_ai.choice"),
        missing=_TEXTS,
        notes=("text completions",),
        **_OTEL,
    ),
    *_each(
        {
            "traces": "traces, one a line",
            "rows": "rows of a search",
            "pretty": "traces, one document",
            "one-each": "a trace a file, over several lines",
        },
        tool="MLflow",
        packages=_ML,
        script="mlflow",
        format="otel",
        cached=True,
        no_output=UNCOUNTED | _TEXTS,
        notes=("lengths of text completions",),
    ),
    *_each(
        {"api": "pages of the API", "export": "export to a bucket", "csv": "the same as CSV"},
        format="langfuse",
        **_LANGFUSE,
    ),
    *_each({"otlp": "OTLP, as its client sends it"}, format="otel", **_LANGFUSE),
    *_each(
        {"s3": "objects on S3"},
        tool="LiteLLM",
        packages=_LL,
        script="litellm_callbacks",
        format="litellm",
        sent="s3",
        cached=True,
        leaves_out={"top_k": EVERY},
        missing=calls("failure"),
        twice=_TEXTS,
        # It counts by itself.
        no_output=UNCOUNTED,
        notes=("calls that failed",),
    ),
    *_each(
        {"chat": "payloads of a callback, `acompletion`"},
        tool="LiteLLM",
        packages=_LL,
        script="litellm_callbacks",
        format="litellm",
        sent="chat",
        cached=True,
        leaves_out={"top_k": EVERY},
        no_output=UNCOUNTED,
    ),
    *_each(
        {"responses": "payloads of a callback, `aresponses`"},
        tool="LiteLLM",
        packages=_LL,
        script="litellm_callbacks",
        format="litellm",
        sent="responses",
        cached=True,
        # It sends 16 where less was asked for.
        changed={"unicode": {"max_tokens": 16}, "limit": {"max_tokens": 16}},
    ),
    *_each(
        {"messages": "payloads of a callback, `anthropic_messages`"},
        tool="LiteLLM",
        packages=_LL,
        script="litellm_callbacks",
        format="litellm",
        sent="messages",
        model="claude-x",
        changed={"": {"max_tokens": 64}},
    ),
    *(
        Log("OpenAI", ("openai",), "openai_batch", folder, form, format_, sent=folder, **BATCH)
        for folder, form, format_ in (
            ("chat", "batch file, chats", "openai-batch"),
            ("text", "batch file, text completions", "openai-batch"),
            ("responses", "batch file, `/v1/responses`", "openai-responses"),
            ("mixed", "batch file, chats and `/v1/responses`", "openai-batch"),
        )
    ),
    *(
        Log(
            "Anthropic",
            ("anthropic",),
            "anthropic_batches",
            folder,
            form,
            "anthropic-batch",
            sent=folder,
            model="claude-x",
            changed={"": {"max_tokens": 64}},
            **BATCH,
        )
        for folder, form in (("sent", "body of the call for a batch"), ("lines", "its requests, one a line"))
    ),
    *(
        Log(
            "Mistral",
            ("mistralai",),
            "mistral_batches",
            folder,
            form,
            "openai-batch",
            sent=folder,
            model=None,
            **BATCH,
        )
        for folder, form in (("sent", "body of the call for a batch"), ("lines", "batch file"))
    ),
    *(
        Log(
            "Gemini",
            ("google-genai",),
            "gemini_batches",
            folder,
            form,
            "gemini-batch",
            sent=folder,
            model=None,
            **BATCH,
        )
        for folder, form in (("lines", "batch file"), ("snake", "batch file, names in snake case"))
    ),
    *(
        Log(
            tool,
            (tool.lower(),),
            "tables",
            folder,
            form,
            "generic",
            sent=folder,
            columns=TABLE_COLUMNS,
            latency=False,
        )
        for tool, folder, form in TABLES
    ),
)
