"""What was published for a date, by what, and how to go back to it, for one date or many."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tasks.base.errors import ConfigurationError
from tasks.operations.dates import LEASE_S
from tasks.publish.current import date_log, roll_back
from tasks.runlog.log import RunIsLiveError, RunLog, StaleWriterError
from tasks.runlog.places import publication_prefix, run_prefix
from tasks.runlog.records import LogFormatError
from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date, datetime

    from tasks.runlog.records import Attempt, Published
    from tasks.store.contract import Store


@dataclass(frozen=True, slots=True)
class PublicationView:
    """A publication of a date, and what made it.

    Attributes
    ----------
    published_at
        When it last became the current one, as ISO 8601 by the clock of who published it.
    release
        Of Nightblend; None for a run of before it was recorded, or whose log is gone. So are `engine`, its
        version, and `options`: what `nightblend run` was given.
    files
        Whether its files are still there (`nightblend gc` takes old ones).
    """

    run_date: date
    publication_id: str
    current: bool
    published_at: str
    run_key: str
    release: str | None
    engine: str | None
    engine_version: str | None
    policy: str | None
    model: str | None
    options: tuple[str, ...]
    requests: int | None
    outputs: int | None
    errors: int | None
    files: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "run_date": self.run_date.isoformat(), "options": list(self.options)}


def publications_of(store: Store, job: str, run_date: date) -> list[PublicationView]:
    """Return the publications of a date, each once, the one that became current last at the end."""
    state = date_log(store, job, run_date, lease_s=LEASE_S).refresh()
    found: dict[str, tuple[str, Published]] = {}
    for at, entry in zip(state.published_at, state.publications, strict=True):
        # Again at the end, if it became current again.
        found.pop(entry.publication_id, None)
        found[entry.publication_id] = (at, entry)
    current = next(reversed(found), None)
    return [_view(store, job, run_date, *found[name], is_current=name == current) for name in found]


def _view(
    store: Store, job: str, run_date: date, published_at: str, entry: Published, *, is_current: bool
) -> PublicationView:
    try:
        attempt = attempt_of(store, job, run_date, entry)
    except LogFormatError:
        attempt = None
    params = attempt.params if attempt is not None else {}
    engine = params.get("engine") or {}
    details = entry.details
    summary = f"{publication_prefix(job, run_date, entry.publication_id)}/summary.json"
    return PublicationView(
        run_date=run_date,
        publication_id=entry.publication_id,
        current=is_current,
        published_at=published_at,
        run_key=entry.run_key,
        release=params.get("release"),
        engine=engine.get("name"),
        engine_version=engine.get("version"),
        policy=details.get("policy"),
        model=params.get("model"),
        options=tuple(params.get("options", ())),
        requests=details.get("requests"),
        outputs=details.get("outputs"),
        errors=details.get("errors"),
        files=store.exists(summary),
    )


def attempt_of(store: Store, job: str, run_date: date, entry: Published) -> Attempt | None:
    """Return the attempt that made a publication; None if its log does not have it any more.

    Raises
    ------
    LogFormatError
        If the log is damaged, or of a newer release.
    """
    attempts = RunLog(store, run_prefix(job, run_date.isoformat(), entry.run_key)).refresh().attempts
    return next((one for one in attempts if one.id == entry.attempt_id), None)


@dataclass(frozen=True, slots=True)
class WentBack:
    """What became of a date.

    Attributes
    ----------
    before, now
        The publication that was current and the one that is; None for a date without any.
    problem
        Why it could not go back; '' otherwise.
    """

    run_date: date
    before: str | None
    now: str | None
    problem: str = ""


def go_back(
    store: Store,
    job: str,
    days: Iterable[date],
    as_of: datetime,
    *,
    catalog: str | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[WentBack]:
    """Make of each date the publication current that was it at a time.

    A date that cannot go back (there was none then, its files are gone, another process holds it)
    stays as it is and says why; the others go on. A date that was never published is left out. Done again, it
    changes nothing.

    Parameters
    ----------
    as_of
        Aware.
    catalog
        URI of the Iceberg catalog; None leaves tables alone.
    """
    for day in days:
        published = date_log(store, job, day, lease_s=lease_s).refresh().publications
        if not published:
            continue
        current = published[-1].publication_id
        try:
            found = roll_back(store, job, day, as_of=as_of, catalog=catalog, lease_s=lease_s)
        except (ConfigurationError, RunIsLiveError, StaleWriterError, StoreUnavailableError) as error:
            yield WentBack(day, current, current, str(error))
        else:
            yield WentBack(day, current, found.id)
