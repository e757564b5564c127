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


CANARY: Final = "candidate_run"
"""Where an attempt and a publication name the run of the candidate whose answers they keep."""


SIDE: Final = "side"
"""Where an attempt says which requests of its date it answers, and what for."""

TENANT, WORKLOAD, REQUEST = "tenant", "workload", "request"
SHARED_BY: Final = (TENANT, WORKLOAD, REQUEST)
"""What the hash of a share is of."""


@dataclass(frozen=True, slots=True)
class Side:
    """Which requests of a date a run answers, and what for; it never publishes.

    Attributes
    ----------
    label
        `candidate`, `reference` (the night's own settings on some of the candidate's requests) or `shadow`.
    by, percent
        The requests whose tenant, workload or name falls into so many of a hundred parts (`SHARED_BY`). A
        larger share has all of a smaller one.
    most
        Of these so many at most, evenly by their names; None takes all.
    """

    label: str
    by: str = REQUEST
    percent: float = 100.0
    most: int | None = None

    def told(self) -> str:
        """Return it in a few words."""
        found = f"{self.label}, {self.percent:g} % by {self.by}"
        return found if self.most is None else f"{found}, {self.most:,} at most"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate may not do; all as parts of 1.

    Attributes
    ----------
    slower
        It may be so much slower than the baseline, in tokens per second.
    errors
        So many more of its requests may have no answer.
    lengths
        So much may its mean answer be longer or shorter, in tokens.
    differing
        So many of the answers that were compared may differ when normalised.
    """

    slower: float = 0.1
    errors: float = 0.01
    lengths: float = 0.1
    differing: float = 0.05


@dataclass(frozen=True, slots=True)
class Rules:
    """How a candidate gets from a small share to everything.

    Attributes
    ----------
    candidate
        Its name: what is different with it, in words.
    steps
        Percent of the requests, rising.
    nights
        Good nights in a row at a step before the next one.
    limits
        What takes it back at once.
    """

    candidate: str
    steps: tuple[float, ...] = (5.0, 25.0, 100.0)
    nights: int = 2
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Canary:
    """A candidate that answers a share of a night.

    Attributes
    ----------
    candidate
        The night as the candidate runs it, with its `side`.
    reference
        The night itself on some of these requests, to compare answers; None compares none.
    scorer
        Entry point ``package.module:function`` of a function (baseline's text, candidate's text) -> number.
    rules
        By which the share grows or is taken back; it is then that of the candidate's stage in the store, not
        that of its `side`. None: the share is as it is given.
    """

    candidate: NightRequest
    reference: NightRequest | None = None
    scorer: str | None = None
    rules: Rules | None = None


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
    image_sources
        Where images may be read beside the folder of the logs.
    timezone
        Whose days are meant where a log says when its requests were made.
    options
        The options of `nightblend run` that ask for the same again; kept with the attempt for people.
    failed_only
        Answer only what has no answer in the date's current publication (`tasks.attempt.kept`).
    asked_by
        Id of the backfill that asks for it, kept with the attempt; '' for none.
    side
        The requests of the date that it answers, if it is one side of a comparison; None: all.
    canary
        A candidate that answers a share of it; None: nobody else does.
    candidate_run
        Key of the run in which the candidate has done so; '' before.
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
    image_sources: tuple[str, ...] = ()
    timezone: str = "UTC"
    options: tuple[str, ...] = ()
    failed_only: bool = False
    asked_by: str = ""
    side: Side | None = None
    canary: Canary | None = None
    candidate_run: str = ""
