"""Nightblend from Python: run a night, estimate one, look into a run, read what is published.

    from flows.api import results, run_night

    night = run_night(job="triage", source="logs/", store="store/", model="model/", run_date="2026-11-22")
    answers = results("store/", "triage", "2026-11-22").outputs()

The same from a notebook, a script, or another flow of Prefect. What goes wrong is an exception,
all of which are here, too; `flows.api.errors` says when each is raised.
"""

from __future__ import annotations

from flows.api.errors import (
    AbortedError,
    AccountingError,
    ComputeFailedError,
    ConfigurationError,
    EngineError,
    EngineFailedError,
    NewerListingError,
    NightOfErrorsError,
    NotPublishedError,
    RunIsLiveError,
    StaleWriterError,
    StoppedError,
    StoreUnavailableError,
)
from flows.api.estimate import Estimate, Machine, Order, Span, estimate
from flows.api.inspect import Inspection, inspect
from flows.api.night import NightResult, run_night
from flows.api.results import Results, results

__all__ = [
    "AbortedError",
    "AccountingError",
    "ComputeFailedError",
    "ConfigurationError",
    "EngineError",
    "EngineFailedError",
    "Estimate",
    "Inspection",
    "Machine",
    "NewerListingError",
    "NightOfErrorsError",
    "NightResult",
    "NotPublishedError",
    "Order",
    "Results",
    "RunIsLiveError",
    "Span",
    "StaleWriterError",
    "StoppedError",
    "StoreUnavailableError",
    "estimate",
    "inspect",
    "results",
    "run_night",
]
