"""What the functions of `flows.api` raise, gathered from the rooms that know why.

=========================  ===================================================================
`ConfigurationError`       a setting is wrong; names it, before any work
`NotPublishedError`        nothing is published for the date (a `ConfigurationError`)
`EngineError`              the engine cannot do what a setting asks of it
`EngineFailedError`        engines die whatever they compute; running it again would not help
`AbortedError`             too much is in quarantine; nothing was computed
`NightOfErrorsError`       nearly all rows have no answer; the better publication stays
`AccountingError`          a line was lost or answered twice; nothing was published
`RunIsLiveError`           another process is at work on the run
`NewerListingError`        a run that read a newer state of the source has the date, or has published it
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
from tasks.infer.progress import EngineFailedError, StoppedError
from tasks.night.fence import NewerListingError
from tasks.publish.publish import NightOfErrorsError
from tasks.runlog.log import RunIsLiveError, StaleWriterError
from tasks.store.contract import StoreUnavailableError

__all__ = [
    "AbortedError",
    "AccountingError",
    "ComputeFailedError",
    "ConfigurationError",
    "EngineError",
    "EngineFailedError",
    "NewerListingError",
    "NightOfErrorsError",
    "NotPublishedError",
    "RunIsLiveError",
    "StaleWriterError",
    "StoppedError",
    "StoreUnavailableError",
]
