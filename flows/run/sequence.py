"""One night as a plain sequence of steps; the flow runs the same sequence with its tasks in their place."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from flows.run.aside import Aside
from flows.run.failures import TOLD, AbortedError, UnexpectedError, exit_code_of, stopped_by_full_disk
from flows.run.reporter import Silent
from tasks.attempt.ended import ending, record_failed
from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night, record_origin
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.base.accounting import Account, AccountingError, ExitCode, must_abort
from tasks.base.errors import bounded
from tasks.canary.compare_sides import compare_sides
from tasks.canary.sides import SideRun
from tasks.canary.stages import StageLog, begin_night, end_night
from tasks.infer.placement.here import infer_here
from tasks.infer.progress import EngineFailedError
from tasks.night.fence import NewerListingError
from tasks.night.model import model_name
from tasks.plan.plan import plan
from tasks.profile.causes import common_cause
from tasks.profile.profile import profile
from tasks.publish.promises import judge_promises
from tasks.publish.publish import publish
from tasks.runlog.log import StaleWriterError
from tasks.store.contract import StoreUnavailableError, plain_path
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flows.run.reporter import Reporter
    from tasks.attempt.extract_inputs import ExtractedInputs
    from tasks.canary.stages import Stage
    from tasks.infer.progress import InferProgress
    from tasks.night.night import Night
    from tasks.night.request import Canary, NightRequest

log = logging.getLogger(__name__)

RESULT_KEYS = (
    "requests",
    "outputs",
    "errors",
    "quarantined",
    "filtered",
    "input_tokens",
    "output_tokens",
    "seconds",
    "tokens_per_second",
    "hit_rate",
    "hit_rate_optimum",
    "recomputed_tokens",
    "reused",
    "run_key",
    "run_dir",
    "output_file",
    "error_file",
)
"""What `nightblend run --json` prints."""
STAGE = "canary"
"""Step whose results say where a candidate is from this night on, and whether it was taken back."""
PLACES = ("run_dir", "folder", "output_file", "error_file", "summary_file")


class TakenBackError(Exception):
    """A candidate has broken a limit: its answers of this date are not published.

    Attributes
    ----------
    run_key
        Of the run whose own answers stay.
    stage
        Where the candidate is now.
    """

    def __init__(self, run_key: str, stage: Stage) -> None:
        super().__init__(f"the candidate {stage.candidate} is taken back: {stage.reason}")
        self.run_key, self.stage = run_key, stage


@dataclass(frozen=True)
class Steps:
    """The steps of a night, in order; the flow puts a task in the place of each function."""

    extract: Callable[[NightRequest, Path], ExtractedInputs] = extract_inputs
    tokenize: Callable[[Night, ExtractedInputs], dict[str, Any]] = tokenize_inputs
    profile: Callable[[Night], dict[str, Any]] = profile
    plan: Callable[[Night], dict[str, Any]] = plan
    infer: Callable[[Night, Callable[[InferProgress], None] | None], dict[str, Any]] = infer_here
    publish: Callable[[Night], dict[str, Any]] = publish

    def reported_to(self, reporter: Aside) -> Steps:
        """Return these steps, with `reporter` told of each one's begin and end."""
        return Steps(**{f.name: _reported(f.name, getattr(self, f.name), reporter) for f in fields(self)})


def run_night(
    request: NightRequest, *, steps: Steps | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run a night to its end, going on where an earlier attempt stopped.

    Parameters
    ----------
    request
        What is asked for; see `flows.parameters.to_request.night_request`.
    steps
        None is the plain functions.

    Returns
    -------
    dict
        `RESULT_KEYS`, and `job, run_date, publication_id, published, status, exit_code, folder,
        summary_file`. Places are paths on a folder store and URIs on S3. A run that was finished before
        answers at once, with `reused` true.

    Raises
    ------
    ConfigurationError, EngineError
        If a setting is wrong.
    AbortedError
        If too much is in quarantine, or nearly all is refused for one cause; nothing was computed.
    AccountingError
        If a line or request was lost or answered twice; nothing was published.
    RunIsLiveError, StaleWriterError
        If another process holds the run, or took it over, or holds another run of the date.
    NightOfErrorsError
        If nearly all rows have no answer, and those of the publication that it would replace have.
    NewerListingError
        If a run that read a newer listing of the source has published the date, or holds it.
    StoppedError, StoreUnavailableError
        If it stopped early; running it again goes on from there.
    """
    steps = steps or Steps()
    request, candidate, reference = _with_sides(request, steps)
    with TemporaryDirectory(prefix="nightblend-") as folder, Aside(reporter or Silent()) as told:
        steps = steps.reported_to(told)
        scratch = Path(folder)
        try:
            return _run(request, steps, scratch, told, candidate, reference)
        except TakenBackError as taken:
            log.warning("%s", taken)
            # What the candidate has answered is answered as before; the rest is there.
            before = replace(request, canary=None, candidate_run=taken.run_key)
            result = _run(before, steps, scratch / "as-before", told, None, None)
            return {**result, "canary": {**taken.stage.as_dict(), "taken_back": True}}


def _run(
    request: NightRequest,
    steps: Steps,
    scratch: Path,
    told: Aside,
    candidate: SideRun | None,
    reference: SideRun | None,
) -> dict[str, Any]:
    prepared = steps.extract(request, scratch)
    with open_night(prepared, request, scratch) as night:
        if night.log.state.finished and not night.log.is_holder:
            with night.log.hold(wait=True, take_over=request.take_over):
                record_origin(night.log, prepared)
                return _result(night, steps.publish(night), reused=True)
        with recorded_attempt(night):
            steps.tokenize(night, prepared)
            _abort_if_mostly_quarantined(night)
            _abort_if_refused_for_one_cause(night)
            steps.profile(night)
            # Step infer is recorded when every request is answered: only publishing was missing.
            if "infer" not in night.log.state.steps:
                steps.plan(night)
                steps.infer(night, told.answered)
            if request.canary is not None and candidate is not None:
                _judge(night, request.canary, candidate, reference)
            judge_promises(night)
            published = steps.publish(night)
            _end_attempt(night, published)
            return _result(night, published, reused=False)


def _judge(night: Night, canary: Canary, candidate: SideRun, reference: SideRun | None) -> None:
    """Compare both sides, and record what that says of the candidate; raise if it is taken back."""
    rows = compare_sides(night, canary, candidate, reference)
    if canary.rules is None:
        return
    stage, taken_back = end_night(StageLog(night.store, night.job), canary.rules, night.run_date, rows)
    share = rows[-1]["share_percent"]
    night.log.finish_step(STAGE, {**stage.as_dict(), "taken_back": taken_back, "share": share})
    if taken_back:
        raise TakenBackError(night.run_key, stage)


def answer_side(request: NightRequest, steps: Steps | None = None) -> SideRun:
    """Answer the requests of a side of a night (`request.side`); nothing of it is published.

    It goes on where an earlier attempt stopped. An engine that fails ends it early: what it has answered
    counts, and `failure` says why there is no more.

    Raises
    ------
    ConfigurationError, StoppedError, StoreUnavailableError, RunIsLiveError, StaleWriterError
        As `run_night`.
    """
    steps, failure = steps or Steps(), None
    with TemporaryDirectory(prefix="nightblend-") as folder:
        scratch = Path(folder)
        prepared = steps.extract(request, scratch)
        with open_night(prepared, request, scratch) as night:
            if not night.log.state.finished or night.log.is_holder:
                try:
                    with recorded_attempt(night):
                        steps.tokenize(night, prepared)
                        steps.profile(night)
                        if "infer" not in night.log.state.steps:
                            steps.plan(night)
                            steps.infer(night, None)
                        night.log.end_attempt("completed", int(ExitCode.OK))
                except (EngineError, EngineFailedError) as error:
                    failure = bounded(" ".join(str(error).split()), 500)
            return SideRun(
                night.run_key, request.settings, model_name(night.model_dir), night.engine.version, failure
            )


def _with_sides(request: NightRequest, steps: Steps) -> tuple[NightRequest, SideRun | None, SideRun | None]:
    """Return a night with what its candidate has answered, and the runs of the candidate and the reference.

    Where rules have taken the candidate back, it is a night without one.
    """
    canary = request.canary
    if canary is None:
        return request, None, None
    asked = [canary.candidate, canary.reference]
    if canary.rules is not None:
        if request.run_date is None:
            raise RuntimeError("a night by rules has a date")
        store = open_store(request.store_uri)
        store.probe()
        percent = begin_night(StageLog(store, request.job), canary.rules, request.run_date)
        if not percent:
            return replace(request, canary=None), None, None
        asked = [one and replace(one, side=one.side and replace(one.side, percent=percent)) for one in asked]
    theirs, reference = asked
    if theirs is None:
        raise RuntimeError("a canary has a candidate")
    candidate = answer_side(theirs, steps)
    canary = replace(canary, candidate=theirs, reference=reference)
    found = replace(request, canary=canary, candidate_run=candidate.run_key)
    return found, candidate, None if reference is None else answer_side(reference, steps)


@contextmanager
def recorded_attempt(night: Night) -> Iterator[None]:
    """Record how the attempt ended if an error ends the block, unless the run was lost to another."""
    try:
        yield
    except BaseException as error:
        code = exit_code_of(error)
        lost = code is ExitCode.OTHER_OWNER and not isinstance(error, NewerListingError)
        if night.log.is_holder and not lost:
            status = "stopped" if code is ExitCode.STOPPED else "failed"
            summary = ending(type(error).__name__, aborted=isinstance(error, AbortedError))
            if isinstance(error, (*TOLD, UnexpectedError)):
                summary["message"] = bounded(" ".join(str(error).split()), 500)
            try:
                night.log.end_attempt(status, int(code), summary)
                night.log.write_manifest()
                record_failed(night.log, night.job, night.run_date, night.run_key, night.settings.catalog)
            except (StaleWriterError, StoreUnavailableError):
                # The next attempt records that this one was killed; what ended it matters more now.
                pass
        raise


def _reported(name: str, step: Callable[..., Any], reporter: Aside) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:  # noqa: ANN401 - whatever the step returns
        reporter.begin(name)
        try:
            results = step(*arguments)
        except Exception as error:
            full = stopped_by_full_disk(error)
            if full is None:
                raise
            raise full from None
        reporter.end(name, results)
        return results

    return run


def _abort_if_mostly_quarantined(night: Night) -> None:
    account = Account(**night.log.state.steps["extract"].results["account"])
    limit = night.settings.abort_quarantined_fraction
    if must_abort(account, limit):
        total = account.requests + account.quarantined
        raise AbortedError(
            f"{account.quarantined} of {total} lines are no requests, more than {limit:.0%}; nothing was "
            f"computed. Look into {plain_path(night.store.object_uri(night.log.key('quarantine')))} and "
            "correct the source, or raise --abort-quarantined-fraction."
        )


def _abort_if_refused_for_one_cause(night: Night) -> None:
    cause = common_cause(night)
    if cause is not None:
        raise AbortedError(
            f"{cause}. Nothing was computed; --abort-quarantined-fraction 1 publishes them as errors."
        )


def _end_attempt(night: Night, published: dict[str, Any]) -> None:
    code = ExitCode(published["exit_code"])
    if code not in {ExitCode.OK, ExitCode.COMPLETED_WITH_ERRORS}:
        raise AccountingError(f"the run ended as {published['status']}")
    status = "completed" if code is ExitCode.OK else "completed_with_errors"
    night.log.end_attempt(status, int(code), published)
    night.log.write_manifest()


def _result(night: Night, published: dict[str, Any], *, reused: bool) -> dict[str, Any]:
    places = {name: plain_path(published[name]) for name in PLACES}
    if published.get("report_file"):
        places["report_file"] = plain_path(published["report_file"])
    named = {"job": night.job, "run_date": night.run_date.isoformat(), "reused": reused}
    stage = night.log.state.steps.get(STAGE)
    return {**published, **places, **named, **({} if stage is None else {STAGE: dict(stage.results)})}
