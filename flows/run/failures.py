"""What an error means: its exit code, and its words where those are ours, else its type and place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import EngineError
from tasks.base.accounting import AccountingError, ExitCode
from tasks.base.errors import ConfigurationError
from tasks.infer.placement.contract import ComputeFailedError
from tasks.infer.progress import EngineFailedError, StoppedError
from tasks.night.fence import NewerListingError
from tasks.publish.publish import NightOfErrorsError
from tasks.runlog.log import RunIsLiveError, StaleWriterError
from tasks.runlog.records import LogFormatError
from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from types import TracebackType


class AbortedError(Exception):
    """So much was quarantined, or refused for one cause, that nothing was computed."""


TOLD = (
    ConfigurationError,
    EngineError,
    EngineFailedError,
    AbortedError,
    AccountingError,
    NightOfErrorsError,
    ComputeFailedError,
    StoppedError,
    RunIsLiveError,
    NewerListingError,
    StaleWriterError,
    LogFormatError,
    StoreUnavailableError,
)
"""Errors whose text was written for people and holds nothing of a prompt."""


class UnexpectedError(Exception):
    """Stands for an error whose own words could quote a prompt: its text has their type and place only."""


def describe(error: BaseException) -> str:
    """Return one line about an error, without anything that could come from a prompt."""
    if isinstance(error, (*TOLD, UnexpectedError)):
        return " ".join(str(error).split())
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
    return f"failed with {type(error).__name__}{where}"


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of a command that ended with `error`."""
    if isinstance(error, ConfigurationError | EngineError):
        return ExitCode.USAGE
    if isinstance(error, RunIsLiveError | StaleWriterError | NewerListingError):
        return ExitCode.OTHER_OWNER
    # What is no `Exception` came from outside: an interrupt, or Prefect's own signal for a cancelled run.
    if isinstance(error, StoppedError | StoreUnavailableError) or not isinstance(error, Exception):
        return ExitCode.STOPPED
    return ExitCode.FAILED
