"""What an error means: its exit code, and its words where those are ours, else its type and place."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Final

from engine.errors import EngineError
from tasks.base.accounting import AccountingError, ExitCode
from tasks.base.disk import is_full
from tasks.base.errors import ConfigurationError
from tasks.base.worker_processes import WorkerError, how_it_failed
from tasks.infer.placement.contract import ComputeFailedError
from tasks.infer.progress import EngineFailedError, StoppedError
from tasks.night.fence import NewerListingError
from tasks.publish.publish import NightOfErrorsError
from tasks.runlog.log import RunIsLiveError, StaleWriterError
from tasks.runlog.records import LogFormatError
from tasks.store.contract import StoreUnavailableError


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
    WorkerError,
)
"""Errors whose text was written for people and holds nothing of a prompt."""


NO_SPACE: Final = "No space left on device"


class UnexpectedError(Exception):
    """Stands for an error whose own words could quote a prompt: its text has their type and place only."""


def describe(error: BaseException) -> str:
    """Return one line about an error, without anything that could come from a prompt."""
    if isinstance(error, (*TOLD, UnexpectedError)):
        return " ".join(str(error).split())
    return f"failed with {how_it_failed(error)}"


def stopped_by_full_disk(error: BaseException) -> StoppedError | None:
    """Return what an error says that a full disk for scratch files has caused; None for any other error.

    A store that is full says so itself: `StoreUnavailableError`.
    """
    folder = tempfile.gettempdir()
    found: BaseException | None = error
    while found is not None and not _no_space(found):
        found = found.__cause__ or found.__context__
    if found is None:
        return None
    if isinstance(error, StoreUnavailableError) and not is_full(folder):
        return None
    return StoppedError(
        f"the disk for scratch files is full ({folder}): free some of it, or set TMPDIR to a folder with "
        "more space, and run it again; what is durable counts"
    )


def without_prefect(error: BaseException) -> StoppedError | None:
    """Return what an error says that comes of a Prefect API which does not answer; None for any other."""
    url = os.environ.get("PREFECT_API_URL", "")
    kind, text = type(error), str(error)
    # By name: plain nights load neither Prefect nor its HTTP client.
    refused = kind is RuntimeError and text.startswith("Failed to reach API at")
    if kind.__module__.split(".")[0] == "httpx" and url:
        try:
            refused = str(error.request.url).startswith(url)  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError):
            refused = False
    if not refused:
        return None
    return StoppedError(
        f"Prefect's API at {url or text.rpartition(' ')[2]} does not answer: start the server, set "
        "PREFECT_API_URL to where it is, or run without it (--no-as-flow)"
    )


def _no_space(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    # Libraries that write files themselves have types of their own, or no number: NumPy counts what is left.
    text = str(error)
    return NO_SPACE in text or (isinstance(error, OSError) and " requested and " in text)


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
