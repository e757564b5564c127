"""`nightblend status`: how a date stands, and what to type next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.commands.common import parse_ready_by
from flows.commands.parser import CommandParser, number, whole
from tasks.base.accounting import ExitCode
from tasks.base.run_date import parse_date

if TYPE_CHECKING:
    from tasks.store.contract import Store


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "status",
        description="Show how a date stands and the command to type next, from the store alone: Prefect "
        "may be down. Without a date the last seven are listed.",
        epilog="Exit codes: 0 as it should be, 1 the date is failed, stopped, killed or missing, or with "
        "--ready-by not published in time, 2 wrong usage, or a job or store that is not known.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--run-date", "--date", metavar="DATE", help="the date, as 2026-11-22")
    parser.add_argument(
        "--ready-by",
        metavar="HH:MM",
        help="say whether the last date that is due by this local time of day is published; for cron",
    )
    parser.add_argument("--timezone", default="UTC", help="whose days and time of day. Default: UTC.")
    parser.add_argument("--lag-days", type=whole, default=1, help="as for `run`. Default: 1.")
    parser.add_argument("--lease-s", type=number, default=90.0, help="as for `run`. Default: 90.")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Print it."""
    from tasks.operations.status import check_known
    from tasks.store.open import open_store

    store = open_store(options["store"])
    check_known(store, options["job"], store_name=options["store"])
    if options["run_date"] is None and options["ready_by"] is None:
        return _recent(store, options)
    return _one(store, options)


def _one(store: Store, options: dict[str, Any]) -> int:
    from flows.views.status import print_status
    from tasks.operations.dates import DateStatus
    from tasks.operations.status import date_status

    late = None
    if options["ready_by"] is not None:
        late = _overdue(store, options)
        if late is None:
            print(json.dumps({"overdue": None}) if options["json"] else "Nothing is overdue.")
            return int(ExitCode.OK)
    day = late or parse_date(options["run_date"])
    found = date_status(store, options["job"], day, store_name=options["store"], lease_s=options["lease_s"])
    if options["json"]:
        print(json.dumps({**found, **({"overdue": day.isoformat()} if late else {})}, ensure_ascii=False))
    else:
        if late:
            print(f"{options['job']} of {day} should have been published by {options['ready_by']}.")
        print_status(found)
    well = late is None and found["status"] in {DateStatus.DONE, DateStatus.RUNNING}
    return int(ExitCode.OK if well else ExitCode.FAILED)


def _overdue(store: Store, options: dict[str, Any]) -> Any:  # noqa: ANN401 - a date, imported late
    from datetime import UTC, datetime

    from tasks.operations.status import overdue

    return overdue(
        store,
        options["job"],
        now=datetime.now(UTC),
        ready_by=parse_ready_by(options["ready_by"]).strftime("%H:%M"),
        timezone=options["timezone"],
        lag_days=options["lag_days"],
    )


def _recent(store: Store, options: dict[str, Any]) -> int:
    from datetime import UTC, datetime

    from flows.views.status import print_dates
    from tasks.base.run_date import resolve_run_date
    from tasks.operations.status import recent_status

    last = resolve_run_date(
        None,
        source="{run_date}",
        has_event_time=False,
        now=datetime.now(UTC),
        timezone=options["timezone"],
        lag_days=options["lag_days"],
    ).run_date
    views = recent_status(store, options["job"], last, lease_s=options["lease_s"])
    if options["json"]:
        print(json.dumps([{"run_date": v.run_date.isoformat(), "status": v.status.value} for v in views]))
    else:
        print_dates(views)
        print("\nMore about one of them: add --run-date.")
    return int(ExitCode.OK)
