"""How a date stands, in detail and with the exact command to type next. Prefect is not asked."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError
from tasks.base.run_date import resolve_run_date, site_zone
from tasks.canary.stages import StageLog
from tasks.infer.progress import at_risk
from tasks.operations.dates import LEASE_S, DateStatus, DateView, view_date
from tasks.runlog.liveness import REPLICAS
from tasks.runlog.numbered import NumberedRecords
from tasks.runlog.records import Attempt, AttemptEnded, Part
from tasks.store.contract import plain_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.operations.dates import RunView
    from tasks.runlog.records import LogRecord
    from tasks.store.contract import Store

_FOR_GOOD: Final = frozenset({"AccountingError", "NightOfErrorsError"})
"""Errors of a run that the same command would end with again."""
_OPTION: Final = re.compile("--[a-z][a-z0-9-]*")
_LOOKED_AT: Final = 1000
RECENT_DAYS: Final = 7
"""Looked through for a night whose options tell how a date without one is run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    done, total
        Requests with a durable answer or error; of all, None before they are counted.
    part_age_s
        Since the last durable part of answers, by the store's clock; None without one.
    eta_s
        Until the last request is answered, at the pace of this attempt so far; None where that cannot be
        told.
    """

    done: int
    total: int | None
    part_age_s: float | None
    eta_s: float | None


def check_known(store: Store, job: str, *, store_name: str) -> None:
    """Look that a store has something of a job.

    Raises
    ------
    ConfigurationError
        Naming `--job` and the jobs that are there, or `--store` if there is none.
    """
    if next(iter(store.list(f"{job}/")), None) is not None:
        return
    keys = (info.key for info in islice(store.list(), _LOOKED_AT))
    jobs = sorted({key.partition("/")[0] for key in keys if key.split("/")[1:2] and key[0] not in "._"})
    if not jobs:
        raise ConfigurationError(
            "--store", f"{store_name} holds no night of any job", "Name the store that the nights have"
        )
    raise ConfigurationError(
        "--job", f"{store_name} holds nothing of {job!r}", f"Jobs there are {', '.join(jobs)}"
    )


def date_status(
    store: Store, job: str, run_date: date, *, store_name: str, lease_s: float = LEASE_S
) -> dict[str, Any]:
    """Return how a date stands.

    Parameters
    ----------
    store_name
        The store as it was typed, for the next command.

    Returns
    -------
    dict
        `job, run_date, status, published, output_file, run_dir, run_key, owner, epoch, silence_s, attempts,
        policy, order, device, step, done, total, part_age_s, eta_s, stop_requested, last_error, requests,
        outputs, errors, quarantined, bad_rows, exit_code, aborted, next_command, next`: None where there is
        nothing to tell. Of a job that has had a candidate also `canary`, where that is
        (`tasks.canary.stages.Stage`), of one with promises to tenants `promises` where the date is done
        (rows of table `promises`), else `promises_at_risk` (`tasks.infer.progress.AtRisk`). Of a run with
        several replicas also `replicas_now` (rows of `replica, phase, left`, as the run told last) while it
        computes, and `by_replica` (`tasks.base.replicas.by_replica`) once it has computed. From `requests`
        to `exit_code` it is about the publication where the date is done, else about the last run; `order` is
        what policy `auto` has chosen and why, in words; `bad_rows` is as
        `tasks.base.bad_rows.count_bad_rows` returns it.
    """
    view = view_date(store, job, run_date, lease_s=lease_s)
    current, run = view.current, view.last_run
    command, meaning = _next(store, view, store_name)
    found: dict[str, Any] = {
        "job": job,
        "run_date": run_date.isoformat(),
        "status": view.status.value,
        "published": current.publication_id if current is not None else None,
        "output_file": plain_path(current.details["output_file"])
        if current is not None and "output_file" in current.details
        else None,
        **_of_run(store, run),
        **_replicas_of(run),
        **_rows_of(view),
        "aborted": _aborted(run),
        "next_command": command,
        "next": meaning,
    }
    found |= _promises_of(view)
    stages = StageLog(store, job).read()
    if stages:
        found["canary"] = stages[-1].as_dict()
    return found


def recent_status(
    store: Store, job: str, last: date, *, days: int = RECENT_DAYS, lease_s: float = LEASE_S
) -> list[DateView]:
    """Return how the dates up to `last` stand, newest first."""
    return [view_date(store, job, last - timedelta(days=i), lease_s=lease_s) for i in range(days)]


def overdue(
    store: Store, job: str, *, now: datetime, ready_by: str, timezone: str = "UTC", lag_days: int = 1
) -> date | None:
    """Return the date that should be published by now and is not; None if all is well.

    Parameters
    ----------
    now
        Aware.
    ready_by
        Local time of day, HH:MM, by which the date of `lag_days` ago is to be published. Earlier in the day
        it is the date before that which is looked at.
    timezone, lag_days
        As for a night.

    Raises
    ------
    ConfigurationError
        If the timezone is not known.
    """
    latest = resolve_run_date(
        None, source="{run_date}", has_event_time=False, now=now, timezone=timezone, lag_days=lag_days
    ).run_date
    local = now.astimezone(site_zone(timezone))
    due = latest if local.strftime("%H:%M") >= ready_by else latest - timedelta(days=1)
    return None if view_date(store, job, due).current is not None else due


def _of_run(store: Store, run: RunView | None) -> dict[str, Any]:
    if run is None:
        names = (
            "run_dir",
            "run_key",
            "owner",
            "epoch",
            "silence_s",
            "policy",
            "order",
            "device",
            "step",
            "done",
        )
        nothing = dict.fromkeys((*names, "total", "part_age_s", "eta_s", "last_error"))
        return nothing | {"attempts": 0, "stop_requested": False}
    state, attempt, owner = run.state, run.state.attempt, run.owner
    progress = _progress(store, run)
    return {
        "run_dir": plain_path(store.object_uri(run.log.prefix)),
        "run_key": run.run_key,
        "owner": f"pid {owner.pid} on {owner.host}" if owner is not None else None,
        "epoch": state.epoch,
        "silence_s": run.silence_s,
        "attempts": len(state.attempts),
        "policy": attempt.policy if attempt is not None else None,
        "order": _order(run),
        "device": attempt.device if attempt is not None else None,
        "step": _step(run),
        "done": progress.done,
        "total": progress.total,
        "part_age_s": progress.part_age_s,
        "eta_s": progress.eta_s,
        "stop_requested": state.holder is not None and state.stop_requested is not None,
        "last_error": _last_error(run),
    }


def _replicas_of(run: RunView | None) -> dict[str, Any]:
    """Return what each of several replicas does now, or has done."""
    if run is None:
        return {}
    infer = run.state.steps.get("infer")
    if infer is not None:
        rows = infer.results.get("by_replica") or ()
        return {"by_replica": rows} if len(rows) > 1 else {}
    now = run.log.told_by_holder().get(REPLICAS) if run.is_live else None
    return {"replicas_now": now} if now else {}


def _rows_of(view: DateView) -> dict[str, Any]:
    """Return how many rows there are, how many of them are bad and why, and the exit code."""
    names = ("requests", "outputs", "errors", "quarantined", "bad_rows", "exit_code")
    if view.status is DateStatus.DONE and view.current is not None:
        return {name: view.current.details.get(name) for name in names}
    run = view.last_run
    if run is None:
        return dict.fromkeys(names)
    extract, tokenize = (run.state.steps.get(name) for name in ("extract", "tokenize"))
    account = extract.results["account"] if extract is not None else {}
    ended = run.state.ended
    # Steps that an earlier release has recorded do not say.
    named = [(tokenize, "refused_rows"), (extract, "quarantined_rows")]
    bad = [step.results.get(name) for step, name in named if step is not None]
    return {
        "requests": account.get("requests"),
        "outputs": sum(part.count for part in run.state.parts_of("outputs")),
        "errors": sum(part.count for part in run.state.parts_of("errors")) if tokenize is not None else None,
        "quarantined": account.get("quarantined"),
        "bad_rows": [row for rows in bad for row in rows or []] if bad and None not in bad else None,
        "exit_code": ended.exit_code if ended is not None and not run.is_live else None,
    }


def _promises_of(view: DateView) -> dict[str, Any]:
    """Return which promises to tenants were kept, of a date that is done; else which are at risk."""
    if view.status is DateStatus.DONE and view.current is not None:
        kept = view.current.details.get("promises")
        return {"promises": kept} if kept else {}
    run = view.last_run
    if run is None or not run.state.at_risk:
        return {}
    day = view.run_date.isoformat()
    return {"promises_at_risk": [asdict(at_risk(day, one)) for one in run.state.at_risk.values()]}


def _aborted(run: RunView | None) -> bool:
    """Tell whether the run ended before anything was computed, since its input is not what it should be."""
    ended = run.state.ended if run is not None else None
    return ended is not None and bool(ended.summary.get("aborted"))


def _order(run: RunView) -> str | None:
    step = run.state.steps.get("plan")
    choice = None if step is None else step.results.get("choice")
    return None if choice is None else f"{choice['text']}. {choice['why']}"


def _step(run: RunView) -> str | None:
    """Return the step that the run is at, or stopped at."""
    if run.state.finished:
        return None
    order = ("extract", "tokenize", "profile", "plan", "infer", "publish")
    return next((name for name in order if name not in run.state.steps), None)


def _progress(store: Store, run: RunView) -> Progress:
    extract = run.state.steps.get("extract")
    total = int(extract.results["account"]["requests"]) if extract is not None else None
    done = sum(part.count for kind in ("outputs", "errors") for part in run.state.parts_of(kind))
    numbered = NumberedRecords(store, run.log.key("log"), 0)
    records = numbered.read_all()
    last = _last_part(records)
    age = None if last is None else store.age_seconds(numbered.key(last))
    return Progress(done, total, age, _eta(records, total, done, age) if run.is_live else None)


def _last_part(records: Sequence[LogRecord]) -> int | None:
    """Return the number of the last part of answers."""
    for seq in range(len(records) - 1, -1, -1):
        body = records[seq].body
        if isinstance(body, Part) and body.kind == "outputs":
            return seq
    return None


def _eta(records: Sequence[LogRecord], total: int | None, done: int, age: float | None) -> float | None:
    """Return the seconds left at the pace of the last attempt; times are by its own clock, so differences."""
    begun = max((i for i, record in enumerate(records) if isinstance(record.body, Attempt)), default=None)
    last = _last_part(records)
    if begun is None or last is None or last < begun or total is None or age is None:
        return None
    bodies = [record.body for record in records[begun:]]
    answered = sum(body.count for body in bodies if isinstance(body, Part) and body.kind == "outputs")
    took = datetime.fromisoformat(records[last].at) - datetime.fromisoformat(records[begun].at)
    if not answered or took.total_seconds() <= 0:
        return None
    return max(0.0, (total - done) * took.total_seconds() / answered - age)


def _last_error(run: RunView) -> str | None:
    if run.state.finished or run.failure is None:
        return None
    ended = run.failure[1]
    reason = str(ended.summary.get("reason", ended.status))
    message = ended.summary.get("message")
    return f"{reason}: {message}" if message else reason


def _next(store: Store, view: DateView, store_name: str) -> tuple[str | None, str]:
    """Return the command to type next, if one is needed, and what it does or why it is not."""
    run = view.last_run
    again = _command(store, view)
    where = f"--job {view.job} --store {shlex.quote(store_name)} --run-date {view.run_date.isoformat()}"
    look = f"nightblend status {where}"
    match view.status:
        case DateStatus.RUNNING:
            return look, "It is under way; this shows how far it is."
        case DateStatus.DONE:
            inspect = None
            if run is not None:
                inspect = f"nightblend inspect {shlex.quote(plain_path(store.object_uri(run.log.prefix)))}"
            return inspect, "Nothing needs to be done; this shows what the run did."
        case DateStatus.MISSING if again is None:
            return None, "No night of this job is known here: start it with `nightblend run`."
        case DateStatus.MISSING:
            return again, "This runs it, with the options of the last night."
    ended = run.state.ended if run is not None else None
    if ended is not None and ended.exit_code == ExitCode.USAGE:
        return _corrected(view, again, ended, store_name)
    if _aborted(run):
        return again, "It was aborted and would be again: this runs it, once the source is corrected."
    if ended is not None and ended.summary.get("reason") in _FOR_GOOD and again is not None:
        return f"{again} --rerun", "It would end the same way again: this computes everything anew."
    waits = ""
    if run is not None and run.owner is not None:
        waits = ", once the dead run's heartbeat is old enough"
    return again, f"This goes on where it was{waits}."


def _corrected(
    view: DateView, again: str | None, ended: AttemptEnded, store_name: str
) -> tuple[str | None, str]:
    """Return the command with a gap for the option that was wrong, or one that looks if that is none."""
    option, colon, _ = str(ended.summary.get("message", "")).partition(": ")
    words = shlex.split(again) if again is not None else []
    if colon and option in words[:-1] and not words[words.index(option) + 1].startswith("--"):
        words[words.index(option) + 1] = option.removeprefix("--").replace("-", "_").upper()
        return shlex.join(words), f"A setting was wrong, see the last error: give {option} another value."
    if colon and again is not None and _OPTION.fullmatch(option):
        value = option.removeprefix("--").replace("-", "_").upper()
        return f"{again} {option} {value}", f"A setting was wrong, see the last error: give {option} a value."
    look = f"nightblend doctor --job {view.job} --store {shlex.quote(store_name)}"
    return look, "A setting was wrong, see the last error; this looks at what a night needs."


def _command(store: Store, view: DateView) -> str | None:
    """Return the command that runs the date: with the options it was run with, else those of a late night."""
    views = [view]
    if view.last_run is None:
        place = f"{view.job}/dates/"
        names = {info.key.removeprefix(place).partition("/")[0] for info in store.list(place)}
        days = [date.fromisoformat(name.removeprefix("run_date=")) for name in sorted(names)[-RECENT_DAYS:]]
        views = [view_date(store, view.job, day) for day in reversed(days)]
    for found in views:
        attempt = found.last_run.state.attempt if found.last_run is not None else None
        options = list(attempt.params.get("options", ())) if attempt is not None else []
        if "--run-date" in options:
            options[options.index("--run-date") + 1] = view.run_date.isoformat()
            return shlex.join(["nightblend", "run", *(str(option) for option in options)])
    return None
