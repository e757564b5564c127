"""What the functions of `flows.api` raise, gathered from the rooms that know why.

=========================  ===================================================================
`ConfigurationError`       a setting is wrong; names it, before any work
`NotPublishedError`        nothing is published for the date (a `ConfigurationError`)
`EngineError`              the engine cannot do what a setting asks of it
`AbortedError`             too much is in quarantine; nothing was computed
`AccountingError`          a line was lost or answered twice; nothing was published
`RunIsLiveError`           another process is at work on the run
`StaleWriterError`         another process has taken the run over
`StoppedError`             it was asked to stop; the same call goes on from there
`StoreUnavailableError`    the store does not answer; the same call goes on from there
`ComputeFailedError`       the machine that computes for a night could not; the text says why
=========================  ===================================================================
"""

from __future__ import annotations

from engine.errors import EngineError
from flows.api.results import NotPublishedError
from flows.run.failures import AbortedError
from tasks.base.accounting import AccountingError
from tasks.base.errors import ConfigurationError
from tasks.infer.placement.contract import ComputeFailedError
from tasks.infer.progress import StoppedError
from tasks.runlog.log import RunIsLiveError, StaleWriterError
from tasks.store.contract import StoreUnavailableError

__all__ = [
    "AbortedError",
    "AccountingError",
    "ComputeFailedError",
    "ConfigurationError",
    "EngineError",
    "NotPublishedError",
    "RunIsLiveError",
    "StaleWriterError",
    "StoppedError",
    "StoreUnavailableError",
]
