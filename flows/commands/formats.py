"""`nightblend formats`: what logs are taken for, and what would become of their lines."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode
from tasks.base.run_date import parse_date


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "formats",
        description="Tell what logs are taken for, how sure that is, and what would become of their lines: "
        "requests, errors, quarantine, filtered, and the first reasons. Nothing is run or kept, and nothing "
        "of a prompt is shown. Without FILE the known formats are listed.",
        epilog="Exit codes: 0 a run has requests to answer, or there is nothing to look at; 2 it has none.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="what to look at: a file, a folder, an s3:// prefix, a table or a query, as --source of a run",
    )
    parser.add_argument(
        "--format", default="auto", metavar="NAME", help="as for `run`: by which format. Default: auto."
    )
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="as for `run`; may be repeated",
    )
    parser.add_argument(
        "--run-date", metavar="DATE", help="only requests of this day, as 2026-11-22. Default: of every day."
    )
    parser.add_argument("--timezone", default="UTC", help="whose day. Default: UTC.")
    parser.add_argument("--catalog", help="as for `run`, for an Iceberg table that names none")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Look, and print it."""
    from flows.views.formats import print_examination, print_formats
    from tasks.extract.examine import examine, known_formats

    if options["file"] is None:
        known = known_formats()
        if options["json"]:
            print(json.dumps({"formats": known}))
        else:
            print_formats(known)
        return int(ExitCode.OK)
    made = examine(
        options["file"],
        run_date=parse_date(options["run_date"]) if options["run_date"] else None,
        timezone=options["timezone"],
        name=options["format"],
        columns=options["columns"],
        catalog=options["catalog"],
    )
    found = made.as_dict()
    if options["json"]:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_examination(found)
    return int(ExitCode.OK if made.answerable else ExitCode.USAGE)
