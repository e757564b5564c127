"""Which dates a backfill or a catch-up runs, why, and what that would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

from engine import ANSWER_VERSION
from tasks.extract.listing import find_objects, listing_digest
from tasks.extract.table_source import is_table
from tasks.night.request import ORIGIN
from tasks.operations.dates import LEASE_S, UNSUCCESSFUL, DateStatus, DateView, view_date
from tasks.operations.selections import FAILED, MISSING, STALE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tasks.store.contract import ObjectInfo, Store

KNOWN_DATES: Final = 5
"""Of the dates published last, whose speed serves as estimate for dates that have not run."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose dates are meant, and how they are chosen.

    Attributes
    ----------
    store, job, source
        As for a night; `source` with its date left open.
    select
        Keys of `tasks.operations.selections.SELECTIONS`.
    force
        Also run finished dates again.
    model
        Returns the digest of the model (`tasks.base.identity.model_digest`); called only to find stale dates.
    asked_by
        Id of a backfill whose finished dates are not forced once more.
    lease_s
        A run that has been silent for longer counts as gone.
    """

    store: Store
    job: str
    source: str
    select: frozenset[str] = frozenset({MISSING, FAILED})
    force: bool = False
    model: Callable[[], str] | None = None
    asked_by: str = ""
    lease_s: float = LEASE_S


@dataclass(frozen=True, slots=True)
class PlannedDate:
    """What a backfill does about a date.

    Attributes
    ----------
    status
        How the date stands, a value of `DateStatus`.
    runs
        Whether it runs; `reason` says why, or why not.
    rerun
        Whether it is computed again although it is finished.
    objects, bytes
        Of its input as it is listed now.
    seconds
        Expected wall time of step infer, that is of the device; None where nothing like it has run.
    basis
        What `seconds` was taken from.
    """

    run_date: date
    status: str
    runs: bool
    reason: str
    rerun: bool = False
    objects: int = 0
    bytes: int = 0
    seconds: float | None = None
    basis: str = "unknown"

    def as_dict(self, price_per_gpu_hour: float | None = None) -> dict[str, Any]:
        """Return it as plain values, with `cost` where time and price are known."""
        cost = None
        if self.seconds is not None and price_per_gpu_hour is not None:
            cost = self.seconds / 3600 * price_per_gpu_hour
        return {**asdict(self), "run_date": self.run_date.isoformat(), "cost": cost}


def date_range(first: date, last: date, *, newest_first: bool = False) -> list[date]:
    """Return all days from `first` to `last`, both included."""
    days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    return days[::-1] if newest_first else days


def plan_dates(scope: Scope, days: Iterable[date]) -> list[PlannedDate]:
    """Decide about each date, in the order given.

    Raises
    ------
    ConfigurationError
        If the source or the store cannot be read.
    """
    views = [view_date(scope.store, scope.job, day, lease_s=scope.lease_s) for day in days]
    model = scope.model() if STALE in scope.select and scope.model is not None else None
    decided = [_decide(scope, view, model) for view in views]
    pace: float | None = None
    if any(planned.runs for planned in decided):
        pace = _pace(scope, views)
    return [_estimated(planned, view, pace) for planned, view in zip(decided, views, strict=True)]


def stale_reasons(
    origin: dict[str, Any] | None,
    listing: str | None,
    model: str | None,
    answer_version: int = ANSWER_VERSION,
) -> list[str]:
    """Return in what a published date differs from what would be made of it now; empty if in nothing.

    Parameters
    ----------
    origin
        Results of step `ORIGIN` of the run it came from, None where the log does not say.
    listing
        `tasks.extract.listing.listing_digest` of the objects it has now; None does not look at them.
    model
        Digest of the model it would be answered by now; None does not look at it.
    """
    if origin is None:
        return ["its log does not say what it was made from"]
    reasons = []
    if listing is not None and origin["listing"] != listing:
        reasons.append("its objects have changed")
    if model is not None and origin["model"] != model:
        reasons.append("the model is another")
    # What another engine is by now only its servers could tell, and they need not be up.
    if isinstance(origin["answer_version"], int) and origin["answer_version"] != answer_version:
        reasons.append("the engine answers differently now")
    return reasons


def _decide(scope: Scope, view: DateView, model: str | None) -> PlannedDate:
    # What rows a table has for a date only the run that reads them can tell.
    of_table = is_table(scope.source)
    source_store: Store | None = None
    found: list[ObjectInfo] = []
    if not of_table:
        source_store, found, _ = find_objects(scope.source, view.run_date, scope.store, scope.job)
    size = sum(info.size for info in found)

    def planned(reason: str, *, runs: bool = False, rerun: bool = False) -> PlannedDate:
        return PlannedDate(view.run_date, view.status.value, runs, reason, rerun, len(found), size)

    if view.status is DateStatus.RUNNING:
        return planned("a run is on it")
    if not found and not of_table:
        gone = " any more" if view.current is not None else ""
        return planned(f"the source has no objects for it{gone}")
    if view.status is DateStatus.MISSING:
        return planned("nothing is published", runs=MISSING in scope.select or scope.force)
    if view.status in UNSUCCESSFUL:
        return planned(f"its last run {_ending(view)}", runs=FAILED in scope.select or scope.force)
    if scope.force and not _asked_by(view, scope.asked_by):
        return planned("asked to run again", runs=True, rerun=True)
    if STALE not in scope.select:
        return planned("finished")
    if view.rolled_back:
        return planned("somebody went back to an earlier publication")
    origin = view.current_run.state.steps.get(ORIGIN) if view.current_run is not None else None
    listing = None
    if source_store is not None:
        listing = listing_digest((source_store.object_uri(info.key), info.etag, info.size) for info in found)
    reasons = stale_reasons(origin.results if origin else None, listing, model)
    return planned(", ".join(reasons) or "finished, and nothing has changed", runs=bool(reasons))


def _ending(view: DateView) -> str:
    return {DateStatus.STOPPED: "was stopped", DateStatus.KILLED: "was killed"}.get(view.status, "failed")


def _asked_by(view: DateView, backfill: str) -> bool:
    run = view.last_run
    attempt = run.state.attempt if run is not None else None
    return bool(backfill) and attempt is not None and attempt.params.get("asked_by") == backfill


def _estimated(planned: PlannedDate, view: DateView, pace: float | None) -> PlannedDate:
    if not planned.runs:
        return planned
    seconds, basis = None, "unknown"
    whole = _whole_seconds(view)
    if planned.bytes and pace is not None:
        seconds, basis = pace * planned.bytes, "earlier dates of this job, by size"
    if whole is not None:
        seconds, basis = whole, "its earlier run"
    done = _share_done(view) if view.status in UNSUCCESSFUL else 0.0
    if seconds is not None and done:
        seconds, basis = seconds * (1 - done), f"{basis}; {done:.0%} is answered"
    elif seconds is not None and view.current is not None and not planned.rerun:
        basis += "; at most, unchanged requests keep their answers"
    return replace(planned, seconds=seconds, basis=basis)


def _whole_seconds(view: DateView) -> float | None:
    """Return the time of step infer of the date's publication."""
    seconds = view.current.details.get("seconds") if view.current is not None else None
    return float(seconds) if seconds else None


def _share_done(view: DateView) -> float:
    """Return the share of the last run's requests that have a durable answer or error."""
    run = view.last_run
    extract = run.state.steps.get("extract") if run is not None else None
    if run is None or extract is None or not extract.results["account"]["requests"]:
        return 0.0
    answered = sum(part.count for kind in ("outputs", "errors") for part in run.state.parts_of(kind))
    return min(1.0, float(answered / extract.results["account"]["requests"]))


def _pace(scope: Scope, views: Sequence[DateView]) -> float | None:
    """Return seconds of step infer per byte of input, over dates that are published."""
    known = [view for view in views if _whole_seconds(view) is not None]
    if not known:
        place = f"{scope.job}/dates/"
        names = {info.key.removeprefix(place).partition("/")[0] for info in scope.store.list(place)}
        days = [date.fromisoformat(name.removeprefix("run_date=")) for name in sorted(names)[-KNOWN_DATES:]]
        known = [view_date(scope.store, scope.job, day, lease_s=scope.lease_s) for day in days]
    seconds, size = 0.0, 0
    for view in known:
        run, took = view.current_run, _whole_seconds(view)
        origin = run.state.steps.get(ORIGIN) if run is not None else None
        if took is not None and origin is not None:
            seconds, size = seconds + took, size + int(origin.results["bytes"])
    return seconds / size if size else None
