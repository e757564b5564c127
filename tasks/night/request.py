"""What a person or a schedule asks of a night."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tasks.requests.formats import AUTO

if TYPE_CHECKING:
    from datetime import date

    from tasks.night.night import NightSettings


ORIGIN: Final = "origin"
"""Step whose results say what a run was made from: `listing, objects, bytes, model, answer_version`."""


RETRY_OF: Final = "retry_of"
"""Where an attempt and a publication name the run whose answers they keep."""


KEPT: Final = "kept"
"""What the names of parts begin with that hold answers of before."""


@dataclass(frozen=True, slots=True)
class NightRequest:
    """What a person or a schedule asks for.

    Attributes
    ----------
    job, source, store_uri, model
        The team's nightly; where its logs are; where everything is written; a model folder or hub id.
    run_date
        The date; None derives it from the source (`tasks.base.run_date`).
    rerun
        Open a fresh attempt: earlier parts of the run do not count.
    take_over
        Claim the run although its holder may be alive.
    model_filter
        Patterns of requested models; other requests count as filtered.
    log_format, columns
        Format of the logs and the columns of the generic one, see `ExtractSettings`.
    timezone
        Whose days are meant where a log says when its requests were made.
    options
        The options of `nightblend run` that ask for the same again; kept with the attempt for people.
    failed_only
        Answer only what has no answer in the date's current publication (`tasks.attempt.kept`).
    asked_by
        Id of the backfill that asks for it, kept with the attempt; '' for none.
    """

    job: str
    source: str
    store_uri: str
    model: str
    run_date: date | None
    settings: NightSettings
    rerun: bool = False
    take_over: bool = False
    model_filter: tuple[str, ...] = ()
    log_format: str = AUTO
    columns: tuple[tuple[str, str], ...] = ()
    timezone: str = "UTC"
    options: tuple[str, ...] = ()
    failed_only: bool = False
    asked_by: str = ""
