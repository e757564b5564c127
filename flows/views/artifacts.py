"""What the Prefect UI shows of a finished night: a page of figures, its workloads, and its report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.views.console import rows_of
from tasks.report.files import report_markdown
from tasks.report.inspect_run import compare_with_plan
from tasks.store.open import open_store

if TYPE_CHECKING:
    import logging

_COLUMNS = ("requests", "outputs", "errors", "input_tokens", "output_tokens", "cached_tokens")


def show_result(result: dict[str, Any], log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    """Write the artifacts of a night; whatever hinders that is logged, the night stands.

    Parameters
    ----------
    result
        As `flows.run.sequence.run_night` returns it.
    """
    job, day = result["job"], result["run_date"]
    try:
        planned = planned_rows(compare_with_plan(result["run_dir"]))
        create_markdown_artifact(markdown(result, planned), key=f"night-{job}", description=day)
        rows = workload_rows(_read_json(result["summary_file"]))
        create_table_artifact(rows, key=f"workloads-{job}", description=f"{day}, by workload")
        report = report_markdown(result["run_dir"])
        create_markdown_artifact(report, key=f"report-{job}", description=f"{day}, how the device was used")
    except Exception as error:  # noqa: BLE001 - published is published
        log.warning("the figures of the night could not be shown (%s)", type(error).__name__)


def markdown(result: dict[str, Any], planned: list[tuple[str, str, str]]) -> str:
    """Return the page of a night.

    Parameters
    ----------
    planned
        As `planned_rows` returns it.
    """
    lines = [f"# {result['job']}, {result['run_date']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows_of(result)]
    if planned:
        lines += ["", "## Planned and actual", "", "Times are by the cost model.", ""]
        lines += ["| | planned | actual |", "|---|---:|---:|"]
        lines += [f"| {name} | {was} | {became} |" for name, was, became in planned]
    return "\n".join(lines) + "\n"


def planned_rows(planned: dict[str, dict[str, float | None]]) -> list[tuple[str, str, str]]:
    """Return (figure, planned, actual) as text, for figures of which both are known."""
    return [
        (name.replace("_", " "), _figure(both["planned"]), _figure(both["actual"]))
        for name, both in planned.items()
        if both["planned"] is not None and both["actual"] is not None
    ]


def workload_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per workload of a summary."""
    return [
        {"workload": name, **{column.replace("_", " "): load[column] for column in _COLUMNS}}
        for name, load in summary["workloads"].items()
    ]


def _read_json(place: str) -> dict[str, Any]:
    folder, _, name = place.rpartition("/")
    found: dict[str, Any] = json.loads(open_store(folder, "summary").get(name))
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
