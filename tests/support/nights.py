"""Small nights with hand-written parts, and a reader of published files that knows nothing of the log."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.identity import digest_ids
from tasks.base.schema import SCHEMAS
from tasks.night.night import Night, NightSettings
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.base.accounting import Account
    from tasks.store.contract import Store

DAY = date(2026, 1, 2)
AT = datetime(2026, 1, 3, 4, 5, 6, tzinfo=UTC)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "eos_token_id": 2,
}


def rid(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def identity(name: str, **more: Any) -> dict[str, Any]:
    return {
        "request_id": rid(name),
        "job": "job",
        "run_date": DAY,
        "workload": "default",
        "custom_id": name,
        "source_uri": "file:///logs/day.jsonl",
        "source_line": 1,
        "endpoint": "chat",
        "answer_key": rid("key " + name),
    } | more


def request(name: str, **more: Any) -> dict[str, Any]:
    return identity(name) | {"prompt": name, "input_tokens": 3} | more


def output(name: str, text: str = "yes", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    return (
        identity(name)
        | {"text": text, "finish_reason": "stop", "usage": usage, "run_key": "k", "attempt_id": "a"}
        | {"started_at": AT, "finished_at": AT}
        | more
    )


def error(name: str, **more: Any) -> dict[str, Any]:
    said = {"code": "unsupported_parameter", "field": "tools", "message": "No tools.", "retryable": False}
    return identity(name) | said | more


def quarantined(line: int) -> dict[str, Any]:
    return {
        "job": "job",
        "run_date": DAY,
        "source_uri": "file:///logs/day.jsonl",
        "source_line": line,
        "byte_offset": 100 * line,
        "byte_length": 7,
        "code": "invalid_json",
        "message": "the line is not JSON",
        "raw_text": "{broken",
    }


def write(night: Night, kind: str, rows: Sequence[dict[str, Any]], count: int | None = None) -> None:
    path = night.scratch / f"{kind}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind]), path)
    ids = digest_ids(row["request_id"] for row in rows if "request_id" in row)
    night.log.write_part(
        kind, path, ext="parquet", count=len(rows) if count is None else count, ids_digest=ids
    )


def write_inputs(
    night: Night, rows: Sequence[dict[str, Any]], account: Account, prompts: Sequence[Sequence[int]] = ()
) -> None:
    """Record requests and their tokens (three of each, unless `prompts` says): steps extract and tokenize."""
    prompts = prompts or [(1, 2, 3)] * len(rows)
    write(night, "requests", rows)
    names = [night.parts("requests")[-1].name]
    flat = np.array([token for prompt in prompts for token in prompt], np.int32)
    offsets = np.cumsum([0, *(len(prompt) for prompt in prompts)]).astype(np.int64)
    for label, array in (("tokens", flat), ("offsets", offsets)):
        path = night.scratch / f"{label}.npy"
        np.save(path, array)
        names.append(night.log.write_part("requests", path, ext="npy", count=len(rows), label=label).name)
    found = {"account": account.counts(), "objects": 1, "object_errors": []}
    night.log.finish_step("extract", found)
    night.log.finish_step("tokenize", {"requests": len(rows), "parts": names})


INFER = {
    "seconds": 2.0,
    "input_tokens": 9,
    "output_tokens": 6,
    "hit_rate": 0.4,
    "hit_rate_optimum": 0.5,
    "recomputed_tokens": 7,
    "mfu": None,
}


@contextmanager
def open_test_night(
    store: Store, scratch: Path, run_key: str = "0123456789abcdef", **settings: Any
) -> Iterator[Night]:
    scratch.mkdir(parents=True, exist_ok=True)
    model = scratch / "tiny"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(CONFIG))
    log = RunLog(
        store, run_prefix("job", DAY.isoformat(), run_key), lease_s=5.0, heartbeat_s=0.5, patience_s=1.0
    )
    with log.hold():
        attempt = log.open_attempt(policy="blend", device="cpu")
        made = NightSettings(**{"lease_s": 5.0, "heartbeat_s": 0.5, "max_bad_fraction": 0.5} | settings)
        yield Night("job", DAY, run_key, store, log, attempt, model, scratch, made)


def read_published(store: Store, prefix: str, into: Path) -> dict[str, Any]:
    """Read the files of a publication and check the equations of a run on them alone."""
    into.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"summary": json.loads(store.get(f"{prefix}/summary.json"))}
    for name in ("output", "errors"):
        data = store.get(f"{prefix}/{name}.jsonl")
        assert not data or data.endswith(b"\n")
        found[name] = [json.loads(line) for line in data.splitlines()]
    for name in ("outputs", "errors", "quarantine", "profiles", "steps"):
        store.get_file(f"{prefix}/{name}.parquet", into / f"{name}.parquet")
        found[f"{name}_table"] = pq.read_table(into / f"{name}.parquet")
    account = found["summary"]["account"]
    answered, failed = found["output"], found["errors"]
    assert account["lines"] == (
        account["blank"] + account["filtered"] + account["quarantined"] + account["requests"]
    )
    assert account["requests"] == len(answered) + len(failed)
    assert account["quarantined"] == found["quarantine_table"].num_rows
    ids = [line["nightblend"]["request_id"] for line in answered + failed]
    assert len(ids) == len(set(ids))
    tables = [found[f"{name}_table"].column("request_id").to_pylist() for name in ("outputs", "errors")]
    assert tables[0] + tables[1] == ids
    for line in answered:
        usage = line["response"]["body"]["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert line["error"] is None
    for line in failed:
        assert line["response"] is None
        assert line["error"]["code"]
    bad = (len(failed) + account["quarantined"]) / max(1, account["requests"] + account["quarantined"])
    above = bad > found["summary"]["max_bad_fraction"] or account["object_errors"] > 0
    assert found["summary"]["exit_code"] == (3 if above else 0)
    return found
