"""`nightblend doctor`: whether a night could run here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.choices import ENGINES, NATIVE
from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode
from tasks.base.run_date import parse_date

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.operations.doctor import Check


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "doctor",
        description="Look at store, clock, source, catalog, model, device or engine, and Prefect as a night "
        "would use them, without taking a GPU. What is not given is skipped.",
        epilog="Exit codes: 0 a night can run, 2 it cannot.",
    )
    parser.add_argument("--store", required=True, help="where runs and results are kept")
    parser.add_argument("--job", default="", help="name of the nightly")
    parser.add_argument("--source", help="request logs, as for `run`")
    parser.add_argument(
        "--run-date", metavar="DATE", help="whose objects to look for, as 2026-11-22. Default: yesterday."
    )
    parser.add_argument("--timezone", default="UTC", help="whose yesterday. Default: UTC.")
    parser.add_argument("--model", help="model folder or hub id")
    parser.add_argument("--catalog", help="as for `run`; none for files only")
    parser.add_argument("--engine", default=NATIVE, choices=ENGINES, help="as for `run`. Default: native.")
    parser.add_argument("--engine-python", metavar="PATH", help="as for `run`: the interpreter to look at")
    parser.add_argument(
        "--engine-option", action="append", metavar="KEY=VALUE", help="as for `run`: the servers to look at"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1. Default: auto.")
    parser.add_argument("--dtype", default="auto", help="as for `run`. Default: auto.")
    parser.add_argument("--pool", help="work pool of the nights, which must have a worker")
    parser.add_argument("--compute-on", help="as for `run`: the deployment that computes for them")
    return parser


def verdict(checks: Sequence[Check]) -> str:
    """Return the last line: whether a night can run, and what to look at before it does."""
    from tasks.operations.doctor import FAILED, WARNING

    failed, warned = ([c.name for c in checks if c.outcome == outcome] for outcome in (FAILED, WARNING))
    if failed:
        return f"A night cannot run: {', '.join(failed)}."
    return "A night can run" + (f"; look at the warnings first: {', '.join(warned)}." if warned else ".")


def execute(options: dict[str, Any]) -> int:
    """Print a line per check."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from rich.console import Console

    from flows.deploy.doctor import examine
    from tasks.base.run_date import resolve_run_date
    from tasks.operations.doctor import FAILED, SKIPPED, WARNING, Asked

    options["engine_option"] = tuple(options["engine_option"] or ())
    as_json, places = options.pop("json"), (options.pop("pool"), options.pop("compute_on"))
    given, timezone = options.pop("run_date"), options.pop("timezone")
    day = parse_date(given) if given else None
    found = resolve_run_date(
        day, source="{run_date}", has_event_time=False, now=datetime.now(UTC), timezone=timezone
    )
    console = Console(highlight=False, soft_wrap=True)
    colours = {FAILED: "bold red", WARNING: "yellow", SKIPPED: "dim"}
    checks = []
    for check in examine(Asked(**options, run_date=found.run_date), *places):
        checks.append(check)
        if not as_json:
            # Text of others may hold what rich takes for markup.
            console.print(f"{check.name:<9}", end="")
            console.print(f"{check.outcome:<9}", style=colours.get(check.outcome, "green"), end="")
            remedy = f". {check.remedy}." if check.remedy else ""
            console.print(check.text + remedy, markup=False)
    failed = [check.name for check in checks if check.outcome == FAILED]
    if as_json:
        print(json.dumps({"can_run": not failed, "checks": [asdict(check) for check in checks]}))
    else:
        console.print(verdict(checks))
    return int(ExitCode.USAGE if failed else ExitCode.OK)
