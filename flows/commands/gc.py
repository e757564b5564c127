"""`nightblend gc`: what is kept no longer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

_CLASSES = {
    "runs": "run directories; that of a current publication is kept in any case",
    "parsed": "parsed rows of source objects",
    "publications": "results that are not current",
    "snapshots": "earlier states of the tables",
}


def make_parser() -> CommandParser:
    """Return the options of the command."""
    from tasks.operations.retention import Retention

    parser = CommandParser(
        "gc",
        description="Delete what is older than its class is kept. Never the current publication of a date, "
        "nor the run that made it.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--catalog", help="as for `run`; none leaves the tables alone")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted; delete nothing")
    kept = asdict(Retention())
    for name, what in _CLASSES.items():
        parser.add_argument(
            f"--{name}-days",
            metavar="DAYS",
            default=str(kept[name]),
            help=f"how long to keep {what}; `all` keeps them. Default: {kept[name]:g}.",
        )
    return parser


def execute(options: dict[str, Any]) -> int:
    """Delete, and say what."""
    from tasks.operations.retention import Retention, clean_up
    from tasks.store.open import open_store
    from tasks.warehouse.catalogs import choose_catalog

    retention = Retention(**{name: _days(name, options[f"{name}_days"]) for name in _CLASSES})
    catalog = choose_catalog(options["catalog"], options["store"])
    store = open_store(options["store"])
    dry_run = options["dry_run"]
    garbage, tables = clean_up(store, options["job"], retention, catalog=catalog, dry_run=dry_run)
    if options["json"]:
        found = [{**asdict(g), "keys": len(g.keys), "newest": g.newest.isoformat()} for g in garbage]
        print(json.dumps({"deleted": not dry_run, "folders": found, "tables": tables}))
        return int(ExitCode.OK)
    for g in garbage:
        print(f"{g.kind:13} {g.run_date}  {g.name:36} {len(g.keys):6,} objects {g.size / 1e6:10,.1f} MB")
    expired = sum(table["expired"] for table in tables)
    size = sum(g.size for g in garbage) / 1e6
    verb = "would be deleted" if dry_run else "deleted"
    print(f"{len(garbage)} folders, {size:,.1f} MB, and {expired} snapshots of the tables {verb}")
    return int(ExitCode.OK)


def _days(name: str, text: str) -> float | None:
    if text == "all":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(
            f"--{name}-days", f"{text!r} is no number of days", "Give a number, or all"
        ) from None
