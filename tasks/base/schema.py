"""The versioned Arrow schema of every table, with type, nullability, unit and meaning of each column.

`SCHEMAS` maps a table's name to its schema; unit and meaning are in the metadata of the fields, the table's
version in the metadata of the schema. A change of columns, types, nullability or units needs a higher number
in `VERSIONS` (a golden file in the tests holds each version still): stored files are read by later nights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from engine.cost.metrics import MEASURED, METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.base.errors import RequestError

VERSIONS: Final[dict[str, int]] = {
    "requests": 3,
    "profiles": 1,
    "outputs": 5,
    "errors": 3,
    "quarantine": 1,
    "images": 1,
    "steps": 3,
    "device_samples": 1,
    "work": 1,
    "lengths": 1,
    "utilization": 2,
    "batch_runs": 3,
    "comparisons": 1,
    "promises": 1,
}
"""Version of each table's schema."""

UTC: Final = pa.timestamp("us", tz="UTC")
# "element" is what Parquet calls the items of a list; any other name would not come back.
STRINGS: Final = pa.list_(pa.field("element", pa.string(), nullable=False))
TOKENS: Final = pa.list_(pa.field("element", pa.int32(), nullable=False))
VECTORS: Final = pa.list_(
    pa.field("element", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False)
)
HASHES: Final = pa.list_(pa.field("element", pa.uint64(), nullable=False))
SAMPLING: Final = pa.struct(
    [
        pa.field("temperature", pa.float64()),
        pa.field("top_p", pa.float64()),
        pa.field("top_k", pa.int32()),
        pa.field("seed", pa.uint64()),
        pa.field("stop", STRINGS),
        pa.field("stop_token_ids", TOKENS),
        pa.field("ignore_eos", pa.bool_()),
        pa.field("n", pa.int32()),
        pa.field("logprobs", pa.int32()),
    ]
)
_TOKEN_LOGPROB: Final = [
    pa.field("token_id", pa.int32(), nullable=False),
    pa.field("bytes", pa.binary(), nullable=False),
    pa.field("logprob", pa.float32(), nullable=False),
]
LOGPROBS: Final = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                *_TOKEN_LOGPROB,
                pa.field(
                    "top",
                    pa.list_(pa.field("element", pa.struct(_TOKEN_LOGPROB), nullable=False)),
                    nullable=False,
                ),
            ]
        ),
        nullable=False,
    )
)
CHOICES: Final = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("text", pa.string(), nullable=False),
                pa.field("token_ids", TOKENS),
                pa.field("finish_reason", pa.string(), nullable=False),
                pa.field("logprobs", LOGPROBS),
            ]
        ),
        nullable=False,
    )
)
SNAPSHOTS: Final = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("table", pa.string(), nullable=False),
                pa.field("snapshot_id", pa.int64(), nullable=False),
            ]
        ),
        nullable=False,
    )
)
USAGE: Final = pa.struct(
    [
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        # Null where the engine does not tell it.
        pa.field("cached_tokens", pa.int32()),
    ]
)


def _col(name: str, kind: pa.DataType, unit: str, meaning: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"unit": unit, "meaning": meaning})


def _metric(name: str) -> pa.Field:
    """Return the column of a figure of `engine.cost.metrics`; rows of earlier versions have none."""
    return _col(name, pa.float64(), METRICS[name].unit, METRICS[name].meaning, null=True)


_REQUEST_ID = _col("request_id", pa.string(), "sha256", "Name of the request, by its content")
_JOB = _col("job", pa.string(), "", "One team's nightly; partition column")
_RUN_DATE = _col("run_date", pa.date32(), "day", "Date the run is for; partition column")
_WORKLOAD = _col("workload", pa.string(), "", "Kind of request, from metadata.workload, else 'default'")
_TENANT = _col("tenant", pa.string(), "", "Who asked, from metadata.tenant", null=True)
_SOURCE_URI = _col("source_uri", pa.string(), "uri", "Object the request came from")
_SOURCE_LINE = _col("source_line", pa.int64(), "line, from 1", "Its line in that object")
_INPUT_TOKENS = _col("input_tokens", pa.int32(), "tokens", "Prompt tokens; null until tokenised", null=True)

_IDENTIFYING: Final = [
    _REQUEST_ID,
    _JOB,
    _RUN_DATE,
    _WORKLOAD,
    _TENANT,
    _col("custom_id", pa.string(), "", "The sender's own name of the request, unique per object", null=True),
    _SOURCE_URI,
    _SOURCE_LINE,
    _col("event_time", UTC, "UTC", "When it was asked, where the source knows", null=True),
    _col("endpoint", pa.string(), "", "chat (/v1/chat/completions), completions, embeddings, responses"),
    _col("requested_model", pa.string(), "", "Model the request names; the run's model answers", null=True),
    _col("answer_key", pa.string(), "sha256", "Digest of normalised prompt and effective sampling"),
    _col(
        "duplicate_of", pa.string(), "sha256", "request_id of the first line with this custom_id", null=True
    ),
    _col(
        "passthrough_json", pa.string(), "json", "Fields without effect: {envelope: {}, body: {}}", null=True
    ),
]
_CONTENT: Final = [
    _col(
        "messages_json",
        pa.string(),
        "json",
        "Chat messages, canonical, text parts joined, images by digest",
        null=True,
    ),
    _col("prompt", pa.string(), "", "Prompt as text; of embeddings all inputs, JSON", null=True),
    _col("token_ids", TOKENS, "token ids", "Prompt as token ids", null=True),
    _col("prefix_block_hashes", HASHES, "hashes", "Prompt as hashes of its leading blocks", null=True),
    _col("block_size", pa.int32(), "tokens", "Tokens of a hashed block; set with the hashes", null=True),
    _INPUT_TOKENS,
    _col("observed_output_tokens", pa.int32(), "tokens", "Length of a logged answer, if known", null=True),
    _col("observed_latency_s", pa.float64(), "s", "Time a logged answer took, if known", null=True),
    _col("max_tokens", pa.int32(), "tokens", "Most output tokens; null: the run's default", null=True),
    _col("sampling", SAMPLING, "", "Settings the request gave itself; null: none", null=True),
    _col("settings_json", pa.string(), "json", "More of them: of logits, texts and the template", null=True),
    _col("priority", pa.int32(), "", "Higher is sooner; null: no preference", null=True),
    _col("deadline", UTC, "UTC", "When the answer is needed, if ever", null=True),
]

_TABLES: Final[dict[str, list[pa.Field]]] = {
    # Exactly one of messages_json, prompt, token_ids, prefix_block_hashes is set.
    "requests": [*_IDENTIFYING, *_CONTENT],
    "profiles": [
        _REQUEST_ID,
        _WORKLOAD,
        _col("input_tokens", pa.int32(), "tokens", "Prompt tokens"),
        _col("cached_tokens", pa.int32(), "tokens", "Prompt tokens shared with others, estimated"),
        _col("estimated_output_tokens", pa.float64(), "tokens", "Expected length of the answer"),
        _col(
            "output_length_source", pa.string(), "", "Where that came from: observed, workload, global, ..."
        ),
        _col("compute_seconds", pa.float64(), "s", "Modelled time on the arithmetic units"),
        _col("memory_seconds", pa.float64(), "s", "Modelled time on the memory bus reading KV"),
        _col("density", pa.float64(), "1", "compute_seconds / memory_seconds; above 1 is compute-bound"),
    ],
    "outputs": [
        *_IDENTIFYING,
        _col("text", pa.string(), "", "The answer, of several choices the first"),
        _col("token_ids", TOKENS, "token ids", "The answer as token ids, where kept", null=True),
        _col("finish_reason", pa.string(), "", "stop or length"),
        _col(
            "choices",
            CHOICES,
            "",
            "All choices in order where n > 1 or logprobs were asked for; log probabilities are natural "
            "logarithms by the model itself, before temperature, top_k and top_p, per token of the answer",
            null=True,
        ),
        _col("tool_calls_json", pa.string(), "json", "Of each choice its calls of tools, or null", null=True),
        _col("embeddings", VECTORS, "1", "Of a request for embeddings: a vector for each input", null=True),
        _col(
            "usage",
            USAGE,
            "tokens",
            "Prompt, answer (all choices), and prompt tokens taken from the prefix cache",
        ),
        _col("run_key", pa.string(), "sha256[:16]", "Run that computed the answer"),
        _col("attempt_id", pa.string(), "", "Attempt of that run"),
        _col("started_at", UTC, "UTC", "When the engine admitted the request first"),
        _col("finished_at", UTC, "UTC", "When its last token was made"),
    ],
    # A request refused while it was parsed may have none of the content columns.
    "errors": [
        *_IDENTIFYING,
        *_CONTENT,
        _col("code", pa.string(), "", "ErrorCode"),
        _col("field", pa.string(), "", "Field of the body that is to blame", null=True),
        _col("message", pa.string(), "", "One sentence for the sender; repeats no prompt text"),
        _col("retryable", pa.bool_(), "", "Whether the same request may succeed when sent again"),
    ],
    "quarantine": [
        _JOB,
        _RUN_DATE,
        _SOURCE_URI,
        _SOURCE_LINE,
        _col("byte_offset", pa.int64(), "bytes", "Start of the line in the (uncompressed) object"),
        _col("byte_length", pa.int64(), "bytes", "Length of the line without its end"),
        _col("code", pa.string(), "", "QuarantineCode"),
        _col("field", pa.string(), "", "Field of the envelope that is to blame", null=True),
        _col("message", pa.string(), "", "One sentence about it"),
        _col("raw_text", pa.string(), "", "The start of the line, undecodable bytes replaced"),
    ],
    "steps": [
        _col("step", pa.int64(), "steps, from 0", "Number of the engine step within the attempt"),
        _col("started_at", UTC, "UTC", "When it was launched"),
        _col("seconds", pa.float64(), "s", "Wall time until the next one"),
        _col("prefill_tokens", pa.int32(), "tokens", "Prompt tokens computed"),
        _col("decode_tokens", pa.int32(), "tokens", "Sequences that decoded, one token each"),
        _col("sequences", pa.int32(), "requests", "Running requests"),
        _col("kv_tokens_read", pa.int64(), "tokens", "KV entries read by attention, per layer"),
        _col("free_pages", pa.int32(), "pages", "KV pages that running requests do not hold"),
        _col("modelled_compute_seconds", pa.float64(), "s", "Compute time of the step by the cost model"),
        _col("modelled_memory_seconds", pa.float64(), "s", "Memory time of the step by the cost model"),
        _col("hit_tokens", pa.int64(), "tokens", "Prompt tokens taken from the cache at admission"),
        _col("recomputed_tokens", pa.int64(), "tokens", "Tokens computed again after a retraction"),
        _col("retractions", pa.int32(), "requests", "Requests put back for lack of memory"),
        _col("evicted_pages", pa.int32(), "pages", "Cached pages given up"),
        *map(_metric, ("model_flops", "model_bytes", "modelled_seconds", "kv_occupancy")),
        _col("replica", pa.int32(), "replicas, from 0", "Which replica took it", null=True),
    ],
    # A row a second while the engine runs, of an NVIDIA device.
    "device_samples": [
        _col("device_uuid", pa.string(), "", "The device, as NVIDIA's tools name it"),
        _col("started_at", UTC, "UTC", "Begin of the time that the row is about"),
        _col("seconds", pa.float64(), "s", "Its length"),
        *map(_metric, MEASURED),
    ],
    # What the requests of a run share its cost by.
    "work": [
        _WORKLOAD,
        _TENANT,
        _col("requests", pa.int64(), "requests", "Whose answers this run computed or shares"),
        _col("compute_seconds", pa.float64(), "s", "Compute time by the cost model, without cached tokens"),
        _col("memory_seconds", pa.float64(), "s", "KV read time by the cost model"),
    ],
    # Tables of the warehouse only.
    "utilization": [
        _JOB,
        _RUN_DATE,
        _col("run_key", pa.string(), "sha256[:16]", "Run that was measured"),
        _col("started_at", UTC, "UTC", "Start of the ten seconds; a step counts where it was launched"),
        _col("seconds", pa.float64(), "s", "Wall time of the steps"),
        _col("steps", pa.int64(), "steps", "How many steps"),
        _col("prefill_tokens", pa.int64(), "tokens", "Prompt tokens computed"),
        _col("decode_tokens", pa.int64(), "tokens", "Answer tokens computed"),
        _col("sequences", pa.float64(), "requests", "Running requests, mean over time"),
        _col("kv_tokens_read", pa.int64(), "tokens", "KV entries read by attention, per layer"),
        _col("free_pages", pa.int32(), "pages", "Fewest KV pages that running requests do not hold"),
        _col("modelled_compute_seconds", pa.float64(), "s", "Compute time by the cost model"),
        _col("modelled_memory_seconds", pa.float64(), "s", "Memory time by the cost model"),
        _col("hit_tokens", pa.int64(), "tokens", "Prompt tokens taken from the cache at admission"),
        _col("recomputed_tokens", pa.int64(), "tokens", "Tokens computed again after a retraction"),
        _col("retractions", pa.int64(), "requests", "Requests put back for lack of memory"),
        _col("evicted_pages", pa.int64(), "pages", "Cached pages given up"),
        *map(_metric, ("model_flops", "model_bytes", "modelled_seconds", "mfu", "mbu", "overlap_fraction")),
        *map(_metric, ("density", "kv_occupancy", *MEASURED)),
    ],
    "batch_runs": [
        _JOB,
        _RUN_DATE,
        _col("run_key", pa.string(), "sha256[:16]", "Run: all that determines the answers"),
        _col("attempt_id", pa.string(), "", "Attempt of that run"),
        _col("publication_id", pa.string(), "sha256[:16]", "What it published, if it did", null=True),
        _col("status", pa.string(), "", "RunStatus: how the attempt ended"),
        _col("exit_code", pa.int32(), "", "Of the command; 4 (it can go on) where it was killed", null=True),
        _col("reason", pa.string(), "", "Type of the error that ended it; nothing of a prompt", null=True),
        _col("ended_at", UTC, "UTC", "When it ended; a killed one when its successor noticed", null=True),
        _col("policy", pa.string(), "", "Order policy"),
        _col("device", pa.string(), "", "What it was computed on", null=True),
        _col(
            "requests", pa.int64(), "requests", "Outputs and errors together; null: not read yet", null=True
        ),
        _col("outputs", pa.int64(), "requests", "Answered until it ended"),
        _col("errors", pa.int64(), "requests", "Refused or failed until it ended"),
        _col("quarantined", pa.int64(), "lines", "No requests; null: not read yet", null=True),
        _col("filtered", pa.int64(), "lines", "Requests that were not asked for", null=True),
        _col("input_tokens", pa.int64(), "tokens", "Prompts of the outputs", null=True),
        _col("output_tokens", pa.int64(), "tokens", "Answers", null=True),
        _col("seconds", pa.float64(), "s", "Wall time of computing", null=True),
        _col("tokens_per_second", pa.float64(), "tokens/s", "Prompt and answer tokens over it", null=True),
        _col("hit_rate", pa.float64(), "1", "Part of the prompt tokens taken from the cache", null=True),
        _col("hit_rate_optimum", pa.float64(), "1", "The most that could be, in unlimited memory", null=True),
        _col("recomputed_tokens", pa.int64(), "tokens", "Tokens computed twice", null=True),
        _col("snapshots", SNAPSHOTS, "", "Tables and the snapshots that hold the date: a consistent read"),
        *map(_metric, ("mfu", "mbu", "overlap_fraction", "kv_occupancy", "idle_tail_seconds")),
        *map(_metric, ("gpu_seconds_held", "gpu_seconds_busy", "measured_energy_joules")),
        _col("gpu_hour_price", pa.float64(), "currency", "Price of a GPU hour, if one was given", null=True),
        _col("currency", pa.string(), "", "Of the price", null=True),
        _col("cost", pa.float64(), "currency", "GPU hours held at that price", null=True),
        _col("cost_per_1000_requests", pa.float64(), "currency", "Of those answered", null=True),
        _col("cost_per_million_tokens", pa.float64(), "currency", "Of prompts and answers", null=True),
    ],
    # The two sides of a night of which a candidate has answered a share.
    "comparisons": [
        _col("job", pa.string(), "", "Name of the nightly"),
        _col("run_date", pa.date32(), "", "Date of the run"),
        _col("run_key", pa.string(), "", "Run of the night"),
        _col("side", pa.string(), "", "baseline or candidate"),
        _col("side_run_key", pa.string(), "", "Run that computed this side"),
        _col("share_by", pa.string(), "", "What the share is a hash of: tenant, workload or request"),
        _col("share_percent", pa.float64(), "%", "The candidate's share"),
        _col("policy", pa.string(), "", "Order of the requests"),
        _col("engine", pa.string(), "", "Engine"),
        _col("engine_version", pa.string(), "", "Its version", null=True),
        _col("model", pa.string(), "", "Model"),
        _col("precision", pa.string(), "", "Precision of computing and of the KV cache"),
        _col("requests", pa.int64(), "", "Requests that this side was given"),
        _col("outputs", pa.int64(), "", "Of these, answered"),
        _col("errors", pa.int64(), "", "Of these, not answered, though they could be"),
        _col("failure", pa.string(), "", "Why the candidate ended early, if it did", null=True),
        _col("input_tokens", pa.int64(), "tokens", "Prompts of the answers"),
        _col("output_tokens", pa.int64(), "tokens", "Answers"),
        _col("engine_seconds", pa.float64(), "s", "Time in the engine's steps", null=True),
        _col("tokens_per_second", pa.float64(), "tokens/s", "Tokens computed over that time", null=True),
        _col("mean_output_tokens", pa.float64(), "tokens", "Of an answer", null=True),
        _col("spread_output_tokens", pa.float64(), "tokens", "Standard deviation of an answer", null=True),
        _col("finish_reasons", pa.string(), "JSON", "Finish reason: answers that ended so"),
        _col(
            "compared", pa.int64(), "", "Answers of the candidate that were compared, in its row", null=True
        ),
        _col("exact", pa.float64(), "1", "Of these, equal to the baseline's", null=True),
        _col("normalised", pa.float64(), "1", "Equal but for case, spaces and punctuation", null=True),
        _col("json_equal", pa.float64(), "1", "Equal as JSON, of those whose baseline is JSON", null=True),
        _col("score", pa.float64(), "", "Mean of what the scorer says", null=True),
    ],
    # What tenants of a date were promised.
    "promises": [
        _JOB,
        _RUN_DATE,
        _col("run_key", pa.string(), "sha256[:16]", "Run of the night"),
        _col("tenant", pa.string(), "", "Whose promise it is"),
        _col("ready_by", UTC, "UTC", "Until when its requests were to be answered, if ever", null=True),
        _col("share", pa.float64(), "1", "Part of the device that was reserved, if any", null=True),
        _col("requests", pa.int64(), "requests", "Of the tenant, that could be answered"),
        _col("answered", pa.int64(), "requests", "Of these, with an answer"),
        _col("refused", pa.int64(), "requests", "Of the tenant, that no setting could answer"),
        _col("in_time", pa.int64(), "requests", "Answered by that time; all answered ones without one"),
        _col("late", pa.int64(), "requests", "Answered after it"),
        _col("late_by_s", pa.float64(), "s", "By how much the last of these", null=True),
        _col("kept", pa.float64(), "1", "in_time over requests; 1 without requests"),
        _col("last_answer_at", UTC, "UTC", "When its last request was answered", null=True),
        _col(
            "share_received",
            pa.float64(),
            "1",
            "Its part of the tokens of all answers that were there by then",
            null=True,
        ),
        _col("at_risk_at", UTC, "UTC", "When it was first expected to be late, if it was", null=True),
        _col("expected_at", UTC, "UTC", "When it was expected to be ready then", null=True),
    ],
    # What later nights learn from; stays in the run directory.
    "lengths": [
        _WORKLOAD,
        _col("input_tokens", pa.int32(), "tokens", "Prompt tokens"),
        _col("output_tokens", pa.int32(), "tokens", "Length of the answer, of several choices the mean"),
        _col("ended", pa.bool_(), "", "Whether it ended by itself; false: cut off by its limit"),
        _col("prefix_hashes", HASHES, "", "Of the first 16, 64, 256, 1024 tokens; 0: the prompt is shorter"),
    ],
    "images": [
        _col("sha256", pa.string(), "sha256", "Digest of the bytes; messages_json names images by it"),
        _col("data", pa.binary(), "bytes", "The image, as it was sent"),
    ],
}

SCHEMAS: Final[dict[str, pa.Schema]] = {
    name: pa.schema(columns, metadata={"nightblend.table": name, "nightblend.version": str(VERSIONS[name])})
    for name, columns in _TABLES.items()
}
"""The schema of each table."""

IDENTIFYING_COLUMNS: Final = tuple(column.name for column in _IDENTIFYING)
"""Columns that outputs and errors take over from their request unchanged."""

CONTENT_ALTERNATIVES: Final = ("messages_json", "prompt", "token_ids", "prefix_block_hashes")
"""Exactly one of these is set in a row of the requests table."""


def error_row(request: Mapping[str, Any], error: RequestError) -> dict[str, Any]:
    """Turn a row of the requests table into its row of the errors table."""
    return {
        **request,
        "code": error.code.value,
        "field": error.field,
        "message": error.message,
        "retryable": error.retryable,
    }


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with the columns of `schema`; those an older version did not have are null.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a column cannot be cast, or is missing and may not be null.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
        if columns[-1].null_count and not field.nullable:
            raise pa.ArrowInvalid(f"column {field.name} has nulls or is missing")
    return pa.Table.from_arrays(columns, schema=schema)


def describe() -> dict[str, Any]:
    """Return all schemas as JSON: per table its version and its columns."""
    return {
        name: {
            "version": VERSIONS[name],
            "columns": [
                {
                    "name": column.name,
                    "type": str(column.type),
                    "nullable": column.nullable,
                    "unit": column.metadata[b"unit"].decode(),
                    "meaning": column.metadata[b"meaning"].decode(),
                }
                for column in schema
            ],
        }
        for name, schema in SCHEMAS.items()
    }
