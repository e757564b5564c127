"""`nightblend rollback`: an earlier publication of a date becomes the current one."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode
from tasks.base.run_date import parse_date


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "rollback",
        description="Make an earlier publication of a date the current one again, in the tables and in the "
        "date's log. Nothing is computed or deleted.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--run-date", required=True, metavar="DATE", help="the date, as 2026-11-22")
    parser.add_argument("--to", metavar="PUBLICATION", help="which one; else the one before the current")
    parser.add_argument("--catalog", help="as for `run`; none rolls the files back alone")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Roll the date back and say to which publication."""
    from tasks.publish.current import roll_back
    from tasks.store.open import open_store
    from tasks.warehouse.catalogs import choose_catalog

    day = parse_date(options["run_date"])
    catalog = choose_catalog(options["catalog"], options["store"])
    store = open_store(options["store"])
    found = roll_back(store, options["job"], day, to=options["to"], catalog=catalog)
    if options["json"]:
        print(json.dumps({**found.results, "publication_id": found.id}, ensure_ascii=False))
    else:
        print(f"{found.job}, {found.run_date}: publication {found.id} is the current one")
        print(f"answers  {found.results['output_file']}")
    return int(ExitCode.OK)
