"""`nightblend rollback`: an earlier publication becomes the current one, of a date or of many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError
from tasks.base.run_date import parse_date

if TYPE_CHECKING:
    from datetime import date, datetime

    from tasks.store.contract import Store


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "rollback",
        description="Make an earlier publication of a date the current one again, in the tables and in the "
        "date's log; or of many dates what was current at a time. Nothing is computed or deleted.",
        epilog="Exit codes: 0 as asked, 1 a date of several could not go back, 2 wrong usage.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--run-date", "--date", metavar="DATE", help="the date, as 2026-11-22")
    parser.add_argument("--first", metavar="DATE", help="instead of --run-date: first day of several")
    parser.add_argument("--last", metavar="DATE", help="last day, included")
    parser.add_argument("--to", metavar="PUBLICATION", help="which one; else the one before the current")
    parser.add_argument(
        "--as-of",
        metavar="TIME",
        help="what was current then, as 2026-11-22T06:00; UTC without an offset. Several dates need it",
    )
    parser.add_argument(
        "--list", action="store_true", help="change nothing; show what was published, and what made it"
    )
    parser.add_argument("--catalog", help="as for `run`; none rolls the files back alone")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Roll the dates back and say to which publications."""
    from tasks.store.open import open_store

    days = _days(options)
    store = open_store(options["store"])
    if options["list"]:
        return _list(store, days, options)
    as_of = None if options["as_of"] is None else _time(options["as_of"])
    if options["run_date"] is None:
        if as_of is None:
            raise ConfigurationError("--as-of", "is missing", "Say of which time the dates shall be")
        return _several(store, days, as_of, options)
    return _one(store, days[0], as_of, options)


def _one(store: Store, day: date, as_of: datetime | None, options: dict[str, Any]) -> int:
    from tasks.publish.current import roll_back
    from tasks.warehouse.catalogs import choose_catalog

    catalog = choose_catalog(options["catalog"], options["store"])
    found = roll_back(store, options["job"], day, to=options["to"], as_of=as_of, catalog=catalog)
    if options["json"]:
        print(json.dumps({**found.results, "publication_id": found.id}, ensure_ascii=False))
    else:
        print(f"{found.job}, {found.run_date}: publication {found.id} is the current one")
        print(f"answers  {found.results['output_file']}")
    return int(ExitCode.OK)


def _several(store: Store, days: list[date], as_of: datetime, options: dict[str, Any]) -> int:
    from tasks.operations.publications import go_back
    from tasks.warehouse.catalogs import choose_catalog

    catalog = choose_catalog(options["catalog"], options["store"])
    rows = []
    for one in go_back(store, options["job"], days, as_of, catalog=catalog):
        rows.append(one)
        if not options["json"]:
            if one.problem:
                print(f"{one.run_date}  stays {one.now}: {one.problem}")
            elif one.before == one.now:
                print(f"{one.run_date}  is at {one.now} already")
            else:
                print(f"{one.run_date}  {one.before} -> {one.now}")
    failed = sum(bool(one.problem) for one in rows)
    changed = sum(one.before != one.now for one in rows)
    if options["json"]:
        dates = [
            {
                "run_date": one.run_date.isoformat(),
                "before": one.before,
                "now": one.now,
                "problem": one.problem or None,
            }
            for one in rows
        ]
        print(json.dumps({"changed": changed, "failed": failed, "dates": dates}, ensure_ascii=False))
    else:
        print(f"{len(rows)} dates: {changed} went back, {failed} could not")
    return int(ExitCode.FAILED if failed else ExitCode.OK)


def _list(store: Store, days: list[date], options: dict[str, Any]) -> int:
    from flows.views.publications import print_publications
    from tasks.operations.publications import publications_of

    found = [one for day in days for one in publications_of(store, options["job"], day)]
    if options["json"]:
        print(json.dumps([one.as_dict() for one in found], ensure_ascii=False))
    else:
        print_publications(found)
    return int(ExitCode.OK)


def _days(options: dict[str, Any]) -> list[date]:
    """Return the days that are meant."""
    from datetime import timedelta

    if options["run_date"] is not None:
        for name in ("first", "last"):
            if options[name] is not None:
                raise ConfigurationError(
                    f"--{name}", "is not used beside --run-date", "Leave one of them out"
                )
        return [parse_date(options["run_date"])]
    if options["first"] is None:
        raise ConfigurationError(
            "--run-date", "is missing", "Name a date, or several with --first and --last"
        )
    if options["last"] is None:
        raise ConfigurationError("--last", "is missing", "Name the last day, which is included")
    if options["to"] is not None:
        raise ConfigurationError(
            "--to", "names a publication of one date", "Give --run-date, or --as-of for several dates"
        )
    first, last = parse_date(options["first"], "--first"), parse_date(options["last"], "--last")
    if last < first:
        raise ConfigurationError("--last", f"{last} is before {first}", "Give the later date here")
    return [first + timedelta(n) for n in range((last - first).days + 1)]


def _time(text: str) -> datetime:
    from tasks.base.times import parse_time

    found = parse_time(text)
    if found is None:
        raise ConfigurationError("--as-of", f"{text!r} is no time", "Give it as 2026-11-22T06:00")
    return found
