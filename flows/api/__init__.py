"""Nightblend from Python: run a night, estimate one, look into a run, read what is published.

    from flows.api import results, run_night

    night = run_night(job="triage", source="logs/", store="store/", model="model/", run_date="2026-11-22")
    answers = results("store/", "triage", "2026-11-22").outputs()

The same from a notebook, a script, or another flow of Prefect. What goes wrong is an exception:
`ConfigurationError` for a wrong setting, else those that `run_night` lists.
"""

from __future__ import annotations

from flows.api.estimate import Estimate, Machine, Order, Span, estimate
from flows.api.inspect import Inspection, inspect
from flows.api.night import NightResult, run_night
from flows.api.results import NotPublishedError, Results, results
from tasks.base.errors import ConfigurationError

__all__ = [
    "ConfigurationError",
    "Estimate",
    "Inspection",
    "Machine",
    "NightResult",
    "NotPublishedError",
    "Order",
    "Results",
    "Span",
    "estimate",
    "inspect",
    "results",
    "run_night",
]
