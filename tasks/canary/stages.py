"""At which stage the candidate of a job is: a log of its own in the store, below ``{job}/canary/log/``.

A record is created once, by the same conditional write as those of a run log: who decides by what is no
longer the last record is refused its number, reads again and decides again. The last record of a candidate is
its stage. Prefect knows nothing of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError
from tasks.canary.rules import baseline_of, breaches
from tasks.runlog.numbered import NumberedRecords
from tasks.runlog.records import LogRecord, Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from tasks.night.request import Rules
    from tasks.store.contract import Store

CANARY, HELD, PROMOTED, BACK = "canary", "held", "promoted", "fallen back"
BEGIN, GOOD, PROMOTE, HOLD, FALL_BACK = "begin", "good night", "promote", "hold", "fall back"
IDLE = "idle night"
RULES, PERSON = "rules", "person"
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Stage:
    """Where a candidate is.

    Attributes
    ----------
    candidate
        Its name.
    percent
        Its share of the next night; 0 when it was taken back.
    stage
        `CANARY`, `HELD`, `PROMOTED` or `BACK`.
    good_nights
        In a row at this share.
    run_date, action, reason, by, at
        Of the last record: the night it is about ('' by hand), what was done and why, by `RULES` or a
        `PERSON`, and when.
    """

    candidate: str
    percent: float
    stage: str
    good_nights: int
    run_date: str
    action: str
    reason: str
    by: str
    at: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class StageLog:
    """The stages of a job's candidates; reading needs nothing, writing is one conditional PUT."""

    def __init__(self, store: Store, job: str) -> None:
        self._records = NumberedRecords(store, f"{job}/canary/log", _PATIENCE_S)

    def read(self) -> list[Stage]:
        """Return all stages, the last one at the end."""
        return [_stage(record) for record in self._records.read_all() if isinstance(record.body, Staged)]

    def decide(self, decide: Callable[[list[LogRecord]], Staged | None]) -> Stage | None:
        """Append what `decide` makes of all records; None: nothing.

        It is called again if another process was first.
        """
        while True:
            records = self._records.read_all()
            body = decide(records)
            if body is None:
                return None
            record = LogRecord.new(0, body)
            if self._records.settle(len(records), record).nonce == record.nonce:
                return _stage(record)


def begin_night(log: StageLog, rules: Rules, run_date: date) -> float:
    """Return the candidate's share of a date, in percent; 0 if it was taken back.

    What a date began with is recorded and stays, however often it is run.
    """
    day = run_date.isoformat()

    def decide(records: list[LogRecord]) -> Staged | None:
        mine = _of(records, rules.candidate)
        if any(body.action == BEGIN and body.run_date == day for body in mine):
            return None
        last = mine[-1] if mine else None
        # With other steps a candidate goes on at the share that it has.
        percent = rules.steps[0] if last is None else last.percent
        stage = CANARY if last is None else last.stage
        return Staged(
            rules.candidate,
            percent,
            stage,
            0 if last is None else last.good_nights,
            day,
            BEGIN,
            f"{percent:g} % of the requests",
            RULES,
            list(rules.steps),
            {} if last is None else last.baseline,
        )

    log.decide(decide)
    mine = [one for one in log.read() if one.candidate == rules.candidate]
    return next(one.percent for one in mine if one.action == BEGIN and one.run_date == day)


def end_night(
    log: StageLog, rules: Rules, run_date: date, rows: Sequence[Mapping[str, Any]]
) -> tuple[Stage, bool]:
    """Record what a night says of a candidate: a good night, the next step, or the way back.

    Returns
    -------
    (Stage, bool)
        Where it is from now on, and whether its answers of this date are to be taken back. Of a date that was
        judged before both are as they were then.
    """
    day = run_date.isoformat()

    def decide(records: list[LogRecord]) -> Staged | None:
        mine = _of(records, rules.candidate)
        if _verdict(mine, day) is not None:
            return None
        last = mine[-1]
        if not rows[1]["requests"]:
            # Nothing is known of it that was not known before.
            made = replace(last, run_date=day, by=RULES, steps=list(rules.steps))
            said = f"no request was in its share of {last.percent:g} %, so the night says nothing of it"
            return replace(made, action=IDLE, reason=said)
        broken = breaches(rows, rules.limits, last.baseline)
        known = baseline_of(rows, last.baseline)
        made = replace(last, run_date=day, by=RULES, steps=list(rules.steps), baseline=known)
        if broken:
            return replace(
                made, percent=0.0, stage=BACK, good_nights=0, action=FALL_BACK, reason="; ".join(broken)
            )
        good = last.good_nights + 1
        said = f"good night {good} at {last.percent:g} %"
        following = [step for step in rules.steps if step > last.percent]
        if last.stage != CANARY or good < rules.nights:
            return replace(made, good_nights=good, action=GOOD, reason=said)
        if following:
            reason = f"{said}; now {following[0]:g} %"
            return replace(made, percent=following[0], good_nights=0, action=PROMOTE, reason=reason)
        return replace(made, stage=PROMOTED, good_nights=good, action=PROMOTE, reason=f"{said}; it stays")

    log.decide(decide)
    found = [one for one in log.read() if one.candidate == rules.candidate]
    verdict = next(one for one in found if one.run_date == day and one.by == RULES and one.action != BEGIN)
    return verdict, verdict.action == FALL_BACK


def move_by_hand(
    store: Store, job: str, action: str, *, percent: float | None = None, reason: str = ""
) -> Stage:
    """Promote a job's candidate to the next step, hold it where it is, or take it back.

    Parameters
    ----------
    action
        `PROMOTE`, `HOLD` or `FALL_BACK`.
    percent
        Promote to this share; None is the next step.

    Raises
    ------
    ConfigurationError
        If the job has no candidate, or it has no next step.
    """

    def decide(records: list[LogRecord]) -> Staged:
        staged = [record.body for record in records if isinstance(record.body, Staged)]
        if not staged:
            raise ConfigurationError(
                "--job", f"no candidate of {job} is known", "Run a night with --canary-steps first"
            )
        last = staged[-1]
        made = replace(last, run_date="", by=PERSON, action=action, reason=reason or "by hand", good_nights=0)
        if action == HOLD:
            return replace(made, stage=HELD, good_nights=last.good_nights)
        if action == FALL_BACK:
            return replace(made, stage=BACK, percent=0.0)
        wanted = percent if percent is not None else _next(last)
        return replace(made, stage=CANARY, percent=wanted)

    found = StageLog(store, job).decide(decide)
    if found is None:
        raise RuntimeError("nothing was decided")
    return found


def _next(last: Staged) -> float:
    if last.stage == HELD and last.percent < 100.0 and not [s for s in last.steps if s > last.percent]:
        return last.percent
    following = [step for step in last.steps if step > last.percent]
    if not following:
        raise ConfigurationError(
            "--percent", f"the candidate is at {last.percent:g} %, its last step", "Name a share, or leave it"
        )
    return following[0]


def _of(records: Sequence[LogRecord], candidate: str) -> list[Staged]:
    found = (record.body for record in records if isinstance(record.body, Staged))
    return [body for body in found if body.candidate == candidate]


def _verdict(mine: Sequence[Staged], day: str) -> Staged | None:
    judged = (body for body in mine if body.by == RULES and body.action != BEGIN)
    return next((body for body in judged if body.run_date == day), None)


def _stage(record: LogRecord) -> Stage:
    body = record.body
    if not isinstance(body, Staged):
        raise TypeError("not a stage")
    return Stage(
        body.candidate,
        body.percent,
        body.stage,
        body.good_nights,
        body.run_date,
        body.action,
        body.reason,
        body.by,
        record.at,
    )
