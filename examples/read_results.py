"""Reads the results of a night with Polars and with DuckDB.

    python examples/read_results.py [STORE] [JOB] [RUN_DATE]

Without arguments it reads what `examples/own_logs.sh` has written. DuckDB comes with `nightblend[sql]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import polars as pl
from pyiceberg.catalog import load_catalog

from flows.api import results

OWN_LOGS = Path(__file__).resolve().parents[1] / ".demo" / "examples" / "own_logs" / "store"


def read_the_files(store: str, job: str, run_date: str) -> None:
    """Read the files of the current publication of a date."""
    night = results(store, job, run_date)
    print(f"publication {night.publication_id}: {night.summary['outputs']} answers")

    print("\nAnswers, with Polars:")
    print(night.outputs().select("custom_id", "workload", "text", "finish_reason"))
    print("\nRequests without an answer, and why:")
    print(night.errors().select("custom_id", "code", "message"))

    # The files beside output.jsonl are Parquet; the tables have more columns than output.jsonl has fields.
    print("\nTokens of each workload, with DuckDB:")
    outputs = duckdb.read_parquet(f"{night.folder}/outputs.parquet")
    print(
        outputs.aggregate(
            "workload, count(*) AS answers, sum(usage.prompt_tokens) AS prompt_tokens, "
            "sum(usage.completion_tokens) AS answer_tokens"
        ).order("workload")
    )


def read_the_tables(store: str, job: str) -> None:
    """Read the Iceberg tables, which hold the current publication of every date and of every job.

    `published/` also has earlier publications of a date: for more than one date, read the tables.
    """
    catalog = load_catalog(
        "nightblend", type="sql", uri=f"sqlite:///{Path(store).resolve()}/_warehouse/catalog.db"
    )
    outputs = catalog.load_table("nightblend.llm_outputs")

    of_job = outputs.scan(row_filter=f"job = '{job}'", selected_fields=("run_date", "custom_id", "text"))

    print("\nAnswers a day, with Polars:")
    print(of_job.to_polars().group_by("run_date").agg(answers=pl.len()).sort("run_date"))

    print("\nThe same with DuckDB:")
    connection = of_job.to_duckdb("outputs")
    print(connection.sql("SELECT run_date, count(*) AS answers FROM outputs GROUP BY ALL ORDER BY ALL"))


if __name__ == "__main__":
    given = sys.argv[1:]
    store, job, run_date = given + [str(OWN_LOGS), "tickets", "2026-11-22"][len(given) :]
    read_the_files(store, job, run_date)
    read_the_tables(store, job)
