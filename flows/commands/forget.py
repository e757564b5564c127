"""`nightblend forget`: requests of a tenant, or some by id, are taken out of all that is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "forget",
        description="Take the requests of a tenant, or some by id, out of publications and tables, with all "
        "earlier states of the tables, and delete the run directories, parsed rows and other publications of "
        "their dates. Take them out of the source first: a date that is run again reads it again.",
        epilog="Exit codes: 0 they are (or would be) forgotten, 1 nothing of them is kept, 2 wrong usage, "
        "5 a run of such a date goes on.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--catalog", help="as for `run`")
    parser.add_argument("--tenant", help="whose requests")
    parser.add_argument(
        "--request-id", action="append", default=[], metavar="ID", help="a request; may be repeated"
    )
    parser.add_argument(
        "--custom-id",
        action="append",
        default=[],
        metavar="ID",
        help="a request by the custom_id of its sender, in all objects and dates; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="say of which dates; change nothing")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Do it, and say which dates held them."""
    from tasks.operations.forget import Wanted, forget
    from tasks.store.open import open_store
    from tasks.warehouse.catalogs import choose_catalog

    catalog = choose_catalog(options["catalog"], options["store"])
    wanted = Wanted(options["tenant"], frozenset(options["request_id"]), frozenset(options["custom_id"]))
    dry_run = options["dry_run"]
    store = open_store(options["store"])
    found = forget(store, options["job"], wanted, catalog=catalog, dry_run=dry_run)
    # Whoever asks for it has to prove that it was done: a misspelt name must not look like that.
    code = int(ExitCode.OK if found else ExitCode.FAILED)
    if options["json"]:
        print(json.dumps({"forgotten": not dry_run, "dates": [asdict(one) for one in found]}))
        return code
    for one in found:
        more = "" if dry_run else f", {one.objects} objects deleted, publication {one.publication_id}"
        print(f"{one.run_date}  {one.requests} requests{more}")
    total = sum(one.requests for one in found)
    print(f"{total} requests of {len(found)} dates {'would be ' if dry_run else ''}forgotten")
    if not found:
        print(f"Nothing of them is kept for job {options['job']} in {options['store']}.")
    return code
