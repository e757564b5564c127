"""A night from Python."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import date
from typing import TYPE_CHECKING, Any

from flows.api.fields import filled
from flows.api.tables import read_table
from flows.parameters.nightly import NightlyParameters
from flows.run.reporter import Silent
from flows.run.sequence import RESULT_KEYS
from flows.views.console import ConsoleReporter
from tasks.base.accounting import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from tasks.base.progress import Amount
    from tasks.infer.progress import InferProgress


@dataclass(frozen=True, slots=True)
class NightResult:
    """What came of a night that ran to its end.

    Attributes
    ----------
    job, run_date
        Which night it was.
    status, exit_code
        `Completed` and 0, or `CompletedWithErrors` and 3: more rows were bad than `max_bad_fraction` allows.
        What could be answered is published in both cases.
    publication_id, published
        Its publication; with `publish` off it is in the run directory alone.
    requests, outputs, errors, quarantined, filtered
        Rows; `requests = outputs + errors`.
    input_tokens, output_tokens
        Of all requests; of all answers.
    seconds, tokens_per_second
        Of step `infer` over all attempts; output tokens in a second of it, None if nothing was computed.
    hit_rate, hit_rate_optimum
        Share of prompt tokens that were not computed again, and the best that memory without bounds allows.
    recomputed_tokens
        Tokens that were computed more than once.
    reused
        Whether the night was finished before and nothing was computed now.
    run_key, run_dir
        What the run is known by; its directory, for `flows.api.inspect`.
    folder, output_file, error_file, summary_file, report_file
        Where the results are: paths on a folder store, URIs on S3. `report_file` is None without a report.
    details
        All figures of the night by name, those above among them.
    """

    job: str
    run_date: date
    status: str
    exit_code: ExitCode
    publication_id: str
    published: bool
    requests: int
    outputs: int
    errors: int
    quarantined: int
    filtered: int
    input_tokens: int
    output_tokens: int
    seconds: float
    tokens_per_second: float | None
    hit_rate: float | None
    hit_rate_optimum: float | None
    recomputed_tokens: int | None
    reused: bool
    run_key: str
    run_dir: str
    folder: str
    output_file: str
    error_file: str
    summary_file: str
    report_file: str | None
    details: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> NightResult:
        """Return the result of `flows.run.sequence.run_night` with types."""
        known: dict[str, Any] = {
            one.name: result.get(one.name) for one in fields(cls) if one.name != "details"
        }
        known["run_date"] = date.fromisoformat(result["run_date"])
        known["exit_code"] = ExitCode(result["exit_code"])
        return cls(**known, details=dict(result))

    @property
    def within_limits(self) -> bool:
        """Whether no more rows were bad than `max_bad_fraction` allows."""
        return self.exit_code == ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """Return what `nightblend run --json` prints."""
        return {name: self.details[name] for name in RESULT_KEYS}

    def read_outputs(self) -> pl.DataFrame:
        """Return the answers, a row each (columns: `tasks.base.schema.SCHEMAS["outputs"]`)."""
        return read_table(self.folder, "outputs")

    def read_errors(self) -> pl.DataFrame:
        """Return the requests without an answer and why, a row each (`SCHEMAS["errors"]`)."""
        return read_table(self.folder, "errors")


def run_night(
    parameters: NightlyParameters | None = None,
    /,
    *,
    as_flow: bool = False,
    quiet: bool = False,
    on_progress: Callable[[InferProgress], object] | None = None,
    on_result: Callable[[NightResult], object] | None = None,
    **given: Any,  # noqa: ANN401 - fields of the form
) -> NightResult:
    """Answer all requests of a date once and publish them, going on where an earlier attempt stopped.

        night = run_night(
            job="triage", source="logs/", store="store/", model="model/", run_date="2026-11-22"
        )
        print(night.outputs, night.output_file)

    Parameters
    ----------
    parameters
        The form of a night; `given` replaces single values of it.
    as_flow
        Run as flow `nightly` of Prefect: with states, logs and artifacts there, inside a running flow as a
        subflow of it. Otherwise the steps are plain functions, also inside a flow.
    quiet
        Show nothing on stderr. A flow is shown in Prefect instead.
    on_progress
        Hears how far step `infer` is, about once a second; not with `as_flow`.
    on_result
        Hears the result before the dates are run that the night catches up with, if there are any.
    given
        Fields of `flows.parameters.nightly.NightlyParameters`, which are the options of `nightblend run`.
        `job`, `source`, `store` and `model` have no default.

    Returns
    -------
    NightResult
        Look at `within_limits`: a night with too many bad rows is published and is no exception.

    Raises
    ------
    ConfigurationError, EngineError
        If a setting is wrong.
    AbortedError
        If too much is in quarantine; nothing was computed.
    AccountingError
        If a line or request was lost or answered twice; nothing was published.
    RunIsLiveError, StaleWriterError
        If another process holds the run, or took it over.
    StoppedError, StoreUnavailableError
        If it stopped early; the same call goes on from there.
    """
    asked = filled(NightlyParameters, parameters, given)

    def tell(result: dict[str, Any]) -> None:
        if on_result is not None:
            on_result(NightResult.of(result))

    if as_flow:
        if on_progress is not None:
            raise TypeError("on_progress does not go with as_flow: a flow shows its progress in Prefect")
        result = _as_flow(asked)
        tell(result)
    else:
        from flows.dates.one_night import night_here

        reporter = _Told(Silent() if quiet else ConsoleReporter(), on_progress)
        try:
            result = night_here(asked, reporter, tell)
        finally:
            reporter.close()
    return NightResult.of(result)


def _as_flow(asked: NightlyParameters) -> dict[str, Any]:
    from flows.parameters.to_request import night_request

    # A wrong setting is told before Prefect starts.
    night_request(asked)
    from flows.nightly import nightly

    return nightly(asked)


class _Told:
    """Tells a reporter, and somebody else of the progress."""

    def __init__(
        self, reporter: Silent | ConsoleReporter, on_progress: Callable[[InferProgress], object] | None
    ) -> None:
        self._reporter, self._on_progress = reporter, on_progress

    def begin(self, step: str) -> None:
        self._reporter.begin(step)

    def goes_on(self, step: str, seconds: float, amount: Amount | None) -> None:
        self._reporter.goes_on(step, seconds, amount)

    def end(self, step: str, results: object) -> None:
        self._reporter.end(step, results)

    def answered(self, progress: InferProgress) -> None:
        self._reporter.answered(progress)
        if self._on_progress is not None:
            self._on_progress(progress)

    def close(self) -> None:
        if isinstance(self._reporter, ConsoleReporter):
            self._reporter.close()
