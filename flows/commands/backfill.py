"""`nightblend backfill`: past dates that are missing, failed or stale."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from flows.commands.common import stopped_by_sigterm
from flows.commands.parser import CommandParser
from flows.parameters.backfill import BackfillParameters, new_id
from flows.parameters.form import option
from flows.parameters.nightly import NightlyParameters
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

    from flows.run.reporter import Reporter
    from flows.views.date_table import DateEntry

_NOT_HERE: Final = frozenset(
    {
        *("run_date", "lag_days", "rerun", "take_over", "force", "publish", "catch_up_days", "give_way"),
        "compute_on",
    }
)
"""Fields of a night that a backfill decides about itself."""
_OF_BOTH: Final = frozenset({"gpu_hour_price"})
"""Fields of a backfill that a night has, too: one option for both."""


def make_parser() -> CommandParser:
    """Return the options of the command, which are the fields of the two forms."""
    parser = CommandParser(
        "backfill",
        description="Run past dates that are missing or failed, or whose input has changed since. With "
        "--deployment they run as flow runs of that deployment on the server of PREFECT_API_URL; else one "
        "after the other in this process, with the options of `nightblend run`.",
        epilog="Exit codes: 0 all published, 1 a date failed, 2 wrong usage, 4 stopped; the same command "
        "goes on.",
    )
    parser.add_form(BackfillParameters, no_default=BackfillParameters.OF_DEPLOYMENTS)
    parser.add_form(
        NightlyParameters,
        without=_NOT_HERE | _OF_BOTH,
        within="Night, without --deployment: ",
        required="Required without --deployment.",
    )
    return parser


def execute(options: dict[str, Any]) -> int:
    """Run it and print a row per date."""
    as_json = options.pop("json")
    asked = BackfillParameters.parse(
        {name: value for name, value in options.items() if name in BackfillParameters.model_fields}
    )
    night = {
        name: value
        for name, value in options.items()
        if name not in BackfillParameters.model_fields or name in _OF_BOTH
    }
    if "deployment" in options:
        _refuse(night.keys() - _OF_BOTH, "is the deployment's, and is not used beside --deployment")
    else:
        _refuse(options.keys() & BackfillParameters.OF_DEPLOYMENTS, "is not used without --deployment")
    with stopped_by_sigterm():
        result = (
            _with_flow(asked) if "deployment" in options else _here(asked, NightlyParameters.parse(night))
        )
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        from flows.views.date_table import print_summary

        print_summary(result)
    return int(result["exit_code"])


def _refuse(names: Collection[str], why: str) -> None:
    """Refuse options that would do nothing."""
    if names:
        raise ConfigurationError(option(min(names)), why, "Leave it out")


def _with_flow(asked: BackfillParameters) -> dict[str, Any]:
    from flows.backfill import backfill

    state: Any = backfill(asked, return_state=True)
    found: Any = state.result(raise_on_failure=False)
    if isinstance(found, BaseException):
        raise found
    return dict(found)


def _here(asked: BackfillParameters, night: NightlyParameters) -> dict[str, Any]:
    from flows.dates.in_process import backfill_here
    from flows.views.console import ConsoleReporter

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    asked = asked.model_copy(update={"backfill_id": asked.backfill_id or new_id()})
    if asked.force and not asked.dry_run:
        print(f"backfill {asked.backfill_id}; to go on with it, give --backfill-id", file=sys.stderr)
    shown = ConsoleReporter()

    def reporter(entry: DateEntry) -> Reporter:
        print(f"{entry.planned.run_date}: {entry.planned.reason}", file=sys.stderr)
        return shown

    try:
        return backfill_here(asked, night, reporter)
    finally:
        shown.close()
