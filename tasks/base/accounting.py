"""Nothing gets lost: the equations of a run, and what its exit code says about them.

Per object: `lines = blank + filtered + quarantined + requests`. Per run: `requests = outputs + errors`.
A part of an object that cannot be read (the tail of a truncated gzip) has no countable lines; it is one
object error. Everything here is a pure function of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum


class AccountingError(Exception):
    """The counts of a run do not add up: lines or requests were lost or answered twice."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    """Everything is accounted for and the bad fraction is within its limit."""
    FAILED = 1
    """The accounting is broken, or the run was aborted or failed."""
    USAGE = 2
    """Wrong usage or configuration."""
    COMPLETED_WITH_ERRORS = 3
    """Published, with more bad rows than allowed or with an unreadable part of an object."""
    STOPPED = 4
    """Stopped before the end; running it again resumes it."""
    OTHER_OWNER = 5
    """Another live run owns the date."""


class RunStatus(StrEnum):
    """State of a run as tables and people see it."""

    COMPLETED = "Completed"
    COMPLETED_WITH_ERRORS = "CompletedWithErrors"
    STOPPED = "Stopped"
    ABORTED = "Aborted"
    FAILED = "Failed"
    KILLED = "Killed"


@dataclass(frozen=True, slots=True)
class Account:
    """Counts of one object, or of many added up.

    Attributes
    ----------
    lines
        Lines read, the last one also without a line end. Bytes after the last line end before an unreadable
        tail belong to that tail.
    blank, filtered, quarantined, requests
        Where each of them went.
    errors
        How many of `requests` were refused while they were parsed; they have their error row already.
    object_errors
        Parts of objects that could not be read.
    """

    lines: int = 0
    blank: int = 0
    filtered: int = 0
    quarantined: int = 0
    requests: int = 0
    errors: int = 0
    object_errors: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def check(self, name: str) -> None:
        """Check the equation of an object.

        Raises
        ------
        AccountingError
            If lines were lost or counted twice; `name` says where.
        """
        parts = self.blank + self.filtered + self.quarantined + self.requests
        if self.lines != parts or not 0 <= self.errors <= self.requests or min(self.counts().values()) < 0:
            raise AccountingError(
                f"{name}: {self.lines} lines are not {self.blank} blank + {self.filtered} filtered + "
                f"{self.quarantined} quarantined + {self.requests} requests (of them {self.errors} refused)"
            )

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def check_run(requests: int, outputs: int, errors: int) -> None:
    """Check the equation of a finished run.

    Raises
    ------
    AccountingError
        If `requests` is not `outputs + errors`.
    """
    if min(requests, outputs, errors) < 0 or requests != outputs + errors:
        raise AccountingError(f"{requests} requests are not {outputs} outputs + {errors} errors")


def bad_fraction(requests: int, errors: int, quarantined: int) -> float:
    """(errors + quarantined) / (requests + quarantined), 0 for an empty run."""
    return _fraction(errors + quarantined, requests + quarantined)


def quarantined_fraction(account: Account) -> float:
    """Quarantined / (requests + quarantined), 0 for an empty run: what decides on an abort after extract."""
    return _fraction(account.quarantined, account.requests + account.quarantined)


def must_abort(account: Account, abort_quarantined_fraction: float = 0.2) -> bool:
    """Tell whether so much was quarantined that the run must stop before any GPU time."""
    return quarantined_fraction(account) > abort_quarantined_fraction


def decide(
    account: Account,
    outputs: int,
    errors: int,
    *,
    stopped: bool = False,
    max_bad_fraction: float = 0.01,
    abort_quarantined_fraction: float = 0.2,
) -> tuple[RunStatus, ExitCode]:
    """Say how a run ended.

    An unreadable part of an object hides an unknown number of requests, so such a run cannot be shown to be
    within `max_bad_fraction` and counts as above it.

    Parameters
    ----------
    account : Account
        Sum over the objects.
    outputs, errors : int
        Requests answered and refused or failed, those refused while parsing included.
    stopped : bool
        Whether the run was stopped and can be resumed (engine restarts exhausted included).
    max_bad_fraction, abort_quarantined_fraction : float
        The limits; exactly on a limit is within it.

    Returns
    -------
    (RunStatus, ExitCode)
        Aborted and Failed are exit code 1. Usage (2) and another owner (5) are no matter of counts.
    """
    try:
        account.check("run")
        if must_abort(account, abort_quarantined_fraction):
            return RunStatus.ABORTED, ExitCode.FAILED
        if stopped and outputs + errors <= account.requests:
            return RunStatus.STOPPED, ExitCode.STOPPED
        check_run(account.requests, outputs, errors)
    except AccountingError:
        return RunStatus.FAILED, ExitCode.FAILED
    bad = bad_fraction(account.requests, errors, account.quarantined)
    if bad > max_bad_fraction or account.object_errors:
        return RunStatus.COMPLETED_WITH_ERRORS, ExitCode.COMPLETED_WITH_ERRORS
    return RunStatus.COMPLETED, ExitCode.OK


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
