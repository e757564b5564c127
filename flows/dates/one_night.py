"""One night in this process, and after it the dates that it catches up with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.dates.catch_up import catching_up
from flows.parameters.form import option
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.parameters.nightly import NightlyParameters
    from flows.run.reporter import Reporter


def night_here(
    parameters: NightlyParameters,
    reporter: Reporter | None = None,
    on_result: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Run a night in this process.

    Parameters
    ----------
    on_result
        Hears the result before other dates are caught up with.

    Returns
    -------
    dict
        As `flows.run.sequence.run_night`.

    Raises
    ------
    Exception
        As `flows.run.sequence.run_night`.
    """
    if parameters.compute_on is not None:
        raise ConfigurationError(
            option("compute_on"),
            "needs a Prefect server, which starts that deployment",
            "Set PREFECT_API_URL, or leave it out to compute here",
        )
    request = night_request(parameters)
    with catching_up(parameters, request.run_date):
        result = run_night(request, reporter=reporter)
        if on_result is not None:
            on_result(result)
    return result
