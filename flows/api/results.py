"""What is published of a date."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.api.tables import read_table
from tasks.base.errors import ConfigurationError
from tasks.base.run_date import parse_date
from tasks.operations.dates import view_date
from tasks.runlog.places import publication_prefix
from tasks.store.contract import plain_path
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    import polars as pl


class NotPublishedError(ConfigurationError):
    """Nothing is published for the date."""


@dataclass(frozen=True, slots=True)
class Results:
    """The current publication of a date.

    Attributes
    ----------
    publication_id, run_key
        The publication; the run that made it.
    summary
        Its figures: counts, lengths of answers, finish reasons, one entry per workload, ...
    folder, output_file, error_file, summary_file
        Where it is: paths on a folder store, URIs on S3. `output_file` and `error_file` are in the format of
        OpenAI's batch API.
    report_file
        The page about the night; None if it was made without.
    """

    job: str
    run_date: date
    publication_id: str
    run_key: str
    summary: Mapping[str, Any]
    folder: str
    output_file: str
    error_file: str
    summary_file: str
    report_file: str | None

    def outputs(self) -> pl.DataFrame:
        """Return the answers, a row each (columns: `tasks.base.schema.SCHEMAS["outputs"]`)."""
        return read_table(self.folder, "outputs")

    def errors(self) -> pl.DataFrame:
        """Return the requests without an answer and why, a row each (`SCHEMAS["errors"]`)."""
        return read_table(self.folder, "errors")


def results(store: str | Path, job: str, run_date: date | str) -> Results:
    """Return what is published of a date now; its tables are read when they are asked for.

        published = results("store/", "triage", "2026-11-22")
        published.outputs().select("custom_id", "text")

    Parameters
    ----------
    store
        Where results are kept: a folder or `s3://bucket/prefix`.
    job
        Name of the nightly.
    run_date
        The date, or its text as 2026-11-22.

    Raises
    ------
    NotPublishedError
        If nothing is published for the date; `nightblend status` tells why.
    ConfigurationError
        If the store is not there, or the date is none.
    """
    if isinstance(run_date, str):
        run_date = parse_date(run_date, "run_date")
    opened = open_store(str(store), "store")
    view = view_date(opened, job, run_date)
    if view.current is None:
        raise NotPublishedError(
            "run_date",
            f"nothing of {job} is published for {run_date}, it is {view.status.value}",
            f"See `nightblend status --job {job} --store {store} --run-date {run_date}`",
        )
    # By the store as it was opened here: it may have another name than where the run wrote.
    prefix = publication_prefix(job, run_date, view.current.publication_id)

    def place(name: str) -> str:
        return plain_path(opened.object_uri(f"{prefix}/{name}"))

    return Results(
        job=job,
        run_date=run_date,
        publication_id=view.current.publication_id,
        run_key=view.current.run_key,
        summary=json.loads(opened.get(f"{prefix}/summary.json")),
        folder=plain_path(opened.object_uri(prefix)),
        output_file=place("output.jsonl"),
        error_file=place("errors.jsonl"),
        summary_file=place("summary.json"),
        report_file=place("report.html") if view.current.details.get("report_file") else None,
    )
