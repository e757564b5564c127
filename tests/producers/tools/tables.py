"""Tables of requests as pandas, Polars, DuckDB, PyArrow, fastparquet and datasets write them."""

import json
from datetime import UTC, datetime, timedelta

import datasets
import duckdb
import fastparquet
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.producers.asking import running
from tests.producers.calls import CALLS, MODEL, Call

T0 = datetime(2026, 11, 29, 22, 0, 0, 123456, UTC)
KINDS = ("plain", "system", "unicode", "limit", "sampling", "greedy", "seed", "stop", "text")


def row(call: Call, number: int) -> dict:
    """Return a call as a row of a table: a chat as JSON text, or as a system text and a question."""
    messages = call.body.get("messages")
    texts = {turn["role"]: turn["content"] for turn in messages or ()}
    apart = messages is None or "system" in texts
    return {
        "custom_id": call.name,
        "prompt": texts.get("user", call.body.get("prompt")) if apart else None,
        "system": texts.get("system"),
        "messages": None if apart else json.dumps(messages, ensure_ascii=False),
        "model": MODEL,
        "max_tokens": call.body.get("max_tokens"),
        "temperature": call.body.get("temperature"),
        "top_p": call.body.get("top_p"),
        "seed": call.body.get("seed"),
        "stop": json.dumps(call.body["stop"]) if "stop" in call.body else None,
        "event_time": T0 + timedelta(minutes=number),
        "output_tokens": number,
    }


if __name__ == "__main__":
    with running("pandas", "polars", "duckdb", "pyarrow", "fastparquet", "datasets") as run:
        chosen = [call for call in CALLS if call.name in KINDS]
        rows = [row(call, number) for number, call in enumerate(chosen)]
        folder = run.out / "files"
        folder.mkdir()
        frame, lazy = pd.DataFrame(rows), pl.DataFrame(rows)
        arrow, found = lazy.to_arrow(), datasets.Dataset.from_list(rows)
        logs = {
            "pandas": {
                "lines.jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
                "records.json": lambda path: frame.to_json(path, orient="records"),
                "indented.json": lambda path: frame.to_json(path, orient="records", indent=2),
                "iso.jsonl": lambda path: frame.to_json(
                    path, orient="records", lines=True, date_format="iso", date_unit="us"
                ),
                "columns.json": frame.to_json,
                "index.json": lambda path: frame.to_json(path, orient="index"),
                "split.json": lambda path: frame.to_json(path, orient="split"),
                "table.json": lambda path: frame.to_json(path, orient="table"),
                "plain.csv": lambda path: frame.to_csv(path, index=False),
                "indexed.csv": frame.to_csv,
                "plain.parquet": lambda path: frame.to_parquet(path, engine="pyarrow"),
                "gzip.jsonl.gz": lambda path: frame.to_json(path, orient="records", lines=True),
            },
            "polars": {
                "lines.ndjson": lazy.write_ndjson,
                "array.json": lazy.write_json,
                "plain.csv": lazy.write_csv,
                "plain.parquet": lazy.write_parquet,
            },
            "duckdb": {
                "lines.jsonl": lambda path: duckdb.sql(f"copy (from arrow) to '{path}' (format json)"),
                "array.json": lambda path: duckdb.sql(
                    f"copy (from arrow) to '{path}' (format json, array true)"
                ),
                "plain.csv": lambda path: duckdb.sql(f"copy (from arrow) to '{path}' (format csv, header)"),
                "plain.parquet": lambda path: duckdb.sql(f"copy (from arrow) to '{path}' (format parquet)"),
            },
            "pyarrow": {
                "plain.csv": lambda path: pyarrow.csv.write_csv(arrow, path),
                "plain.parquet": lambda path: pq.write_table(arrow, path),
                "nanoseconds.parquet": lambda path: pq.write_table(
                    pa.Table.from_pandas(frame.astype({"event_time": "datetime64[ns, UTC]"})), path
                ),
            },
            "fastparquet": {
                # It writes microseconds as if they were nanoseconds.
                "int96.parquet": lambda path: fastparquet.write(
                    path, frame.astype({"event_time": "datetime64[ns, UTC]"}), times="int96"
                ),
                "plain.parquet": lambda path: fastparquet.write(path, frame),
            },
            "datasets": {
                "lines.jsonl": found.to_json,
                "plain.csv": found.to_csv,
                "plain.parquet": found.to_parquet,
            },
        }
        for tool, files in logs.items():
            for name, write in files.items():
                path = run.out / f"{tool}-{name.partition('.')[0]}-{name.rpartition('.')[2]}" / name
                path.parent.mkdir()
                write(str(path))
                for number, call in enumerate(chosen):
                    run.record(
                        call,
                        log=path.parent.name,
                        custom_id=call.name,
                        at=rows[number]["event_time"].isoformat(),
                        completion_tokens=number,
                    )
