"""The flow for a date that a person gives: nothing is published unless they say so."""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads the annotation when the module runs
from typing import Any

from prefect import flow
from pydantic import ConfigDict, Field

from flows.nightly import run_as_flow, run_name
from flows.parameters.nightly import NightlyParameters


class OnDemandParameters(NightlyParameters):
    """Those of a night, but the date must be given and publishing is off."""

    model_config = ConfigDict(title="On demand")

    run_date: date = Field(title="Run date", description="Day to run for.", examples=["2026-11-22"])
    publish: bool = Field(
        default=False,
        title="Publish",
        description="Make the results the current ones of the date; off keeps them in the run directory.",
    )


@flow(name="on-demand", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def on_demand(parameters: OnDemandParameters) -> dict[str, Any]:
    """Answer all requests of a given date once; the results stay in the run directory unless published.

    Parameters
    ----------
    parameters
        What to run.

    Returns
    -------
    dict
        As `flows.run.sequence.run_night`.
    """
    return run_as_flow(parameters)  # type: ignore[return-value]  # Prefect returns the state's data to a caller
