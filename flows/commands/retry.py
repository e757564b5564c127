"""`nightblend retry`: what failed of a date is answered again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from flows.commands import run
from flows.commands.parser import CommandParser
from flows.parameters.nightly import NightlyParameters
from tasks.base.accounting import ExitCode
from tasks.base.run_date import parse_date

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_HERE: Final = frozenset(
    {
        *("job", "store", "run_date", "lag_days", "catch_up_days", "rerun", "failed_only", "publish"),
        *("preset", "timezone"),
    }
)
"""Fields of a night that are given once, or that a retry decides about itself."""
_OF_ENGINE: Final = frozenset(
    {"engine_option", "max_in_flight", "hours", "device", "dtype", "kv_dtype", "device_profile", "compute_on"}
)
"""Fields that are about an engine: with another one those of before mean nothing."""


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "retry",
        description="Answer what failed of a date's current publication again, and publish it together with "
        "the answers of before, which stay as they are. What is not given is as it was; the source is read "
        "anew.",
        epilog="Exit codes: as of `nightblend run`; 0 also if nothing had failed.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--run-date", required=True, metavar="DATE", help="the date, as 2026-11-22")
    parser.add_form(
        NightlyParameters,
        without=_NOT_HERE,
        within="Changed: ",
        required="As it was.",
        no_default=NightlyParameters.model_fields,
    )
    parser.add_flow_option("on where PREFECT_API_URL names a server")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Run what failed of the date and print the result."""
    from tasks.operations.retry import published_options
    from tasks.store.open import open_store

    day = parse_date(options["run_date"])
    current, typed = published_options(open_store(options["store"]), options["job"], day)
    if not current.details.get("errors"):
        if options["json"]:
            from flows.run.sequence import RESULT_KEYS

            details = {**current.details, "reused": True}
            print(json.dumps({name: details.get(name) for name in RESULT_KEYS}, ensure_ascii=False))
        else:
            print(f"{options['job']}, {day}: nothing has failed; publication {current.publication_id} stays")
        return int(ExitCode.OK)
    before = run.make_parser().finish().parse(typed)
    return run.execute({**changed(before, options), "failed_only": True, "catch_up_days": 0})


def changed(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a night with some of them changed.

    With another engine those of the engine before are left out.
    """
    # A candidate has had its share of the night itself.
    kept = {name: value for name, value in before.items() if not name.startswith("canary")}
    if given.get("engine", kept.get("engine")) != kept.get("engine"):
        kept = {name: value for name, value in kept.items() if name not in _OF_ENGINE}
    return {**kept, **given}
