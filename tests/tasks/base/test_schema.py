"""The golden file holds every table's schema; `NIGHTBLEND_WRITE_GOLDEN=1 pytest` here rewrites it."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.base.errors import ErrorCode, RequestError
from tasks.base.schema import (
    CONTENT_ALTERNATIVES,
    IDENTIFYING_COLUMNS,
    SCHEMAS,
    VERSIONS,
    conform,
    describe,
    error_row,
)

GOLDEN = Path(__file__).parent / "golden" / "schema.json"


def structure(table: dict) -> list[dict]:
    return [{key: column[key] for key in column if key != "meaning"} for column in table["columns"]]


def unversioned_changes(old: dict, new: dict) -> list[str]:
    return [
        name
        for name in old
        if name not in new
        or (structure(old[name]) != structure(new[name]) and new[name]["version"] <= old[name]["version"])
    ]


def test_schemas_equal_the_golden_file() -> None:
    now = describe()
    if os.environ.get("NIGHTBLEND_WRITE_GOLDEN"):
        old = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        changed = unversioned_changes(old, now)
        assert not changed, f"raise the version in tasks/base/schema.py first: {changed}"
        GOLDEN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    assert now == json.loads(GOLDEN.read_text()), "raise the table's version, then rewrite the golden file"


@pytest.mark.parametrize("key", ["type", "nullable", "unit", "name"])
def test_a_change_without_a_new_version_is_noticed(key: str) -> None:
    old, new = describe(), describe()
    new["outputs"]["columns"][3][key] = "changed"
    assert unversioned_changes(old, new) == ["outputs"]
    new["outputs"]["version"] += 1
    assert unversioned_changes(old, new) == []


def test_every_column_says_what_it_means() -> None:
    for schema in SCHEMAS.values():
        assert len(set(schema.names)) == len(schema.names)
        for column in schema:
            assert column.metadata[b"meaning"]
            assert b"unit" in column.metadata


def test_versions_are_in_the_metadata() -> None:
    for name, schema in SCHEMAS.items():
        assert schema.metadata[b"nightblend.version"] == str(VERSIONS[name]).encode()


def test_contract_columns_of_requests() -> None:
    contract = {
        *("request_id", "job", "run_date", "workload", "tenant", "custom_id", "source_uri", "source_line"),
        *("event_time", "requested_model", *CONTENT_ALTERNATIVES, "block_size", "input_tokens"),
        *("observed_output_tokens", "observed_latency_s", "max_tokens", "sampling", "priority", "deadline"),
        *("answer_key", "duplicate_of", "passthrough_json"),
    }
    assert set(CONTENT_ALTERNATIVES) == {"messages_json", "prompt", "token_ids", "prefix_block_hashes"}
    assert contract | {"endpoint", "settings_json"} == set(SCHEMAS["requests"].names)
    requests = SCHEMAS["requests"]
    assert requests.field("run_date").type == pa.date32()
    assert requests.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert requests.field("max_tokens").type == pa.int32()
    assert all(requests.field(name).nullable for name in CONTENT_ALTERNATIVES)


def test_outputs_and_errors_take_over_identifying_columns_unchanged() -> None:
    for table in ("outputs", "errors"):
        for name in IDENTIFYING_COLUMNS:
            original = SCHEMAS["requests"].field(name)
            assert SCHEMAS[table].field(name).equals(original, check_metadata=True)


def test_error_row_keeps_the_request() -> None:
    row = error_row(
        {"request_id": "a"}, RequestError(ErrorCode.ENGINE_ERROR, None, "it broke", retryable=True)
    )
    assert row == {
        "request_id": "a",
        "code": "engine_error",
        "field": None,
        "message": "it broke",
        "retryable": True,
    }


def test_parts_of_an_older_version_are_read_with_nulls() -> None:
    new = SCHEMAS["requests"]
    fields = [f for f in new.field("sampling").type if f.name not in {"n", "logprobs"}]
    place = new.get_field_index("sampling")
    old = new.set(place, new.field("sampling").with_type(pa.struct(fields)))
    row = {"request_id": "r", "job": "j", "run_date": date(2026, 1, 1), "workload": "w", "source_uri": "u"}
    row |= {"source_line": 1, "endpoint": "chat", "answer_key": "k", "sampling": {"seed": 3}}
    table = pa.Table.from_pylist([row], schema=old)
    made = conform(table, new)
    assert made.schema.equals(new, check_metadata=True)
    sampling = made.column("sampling").to_pylist()[0]
    assert (sampling["seed"], sampling["n"], sampling["logprobs"]) == (3, None, None)
    outputs = SCHEMAS["outputs"]
    without = outputs.remove(outputs.get_field_index("choices")).empty_table()
    assert conform(without, outputs).schema.equals(outputs, check_metadata=True)
    with pytest.raises(pa.ArrowInvalid):
        conform(table.drop_columns(["answer_key"]), new)
