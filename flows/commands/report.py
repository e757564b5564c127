"""`nightblend report`: what a run did, as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "report",
        description="Write a self-contained HTML page about a run, and the same as markdown beside it: "
        "utilisation over time, why this order, sharing, plan kept, cost. Nothing of a prompt is in it.",
    )
    parser.add_argument(
        "run", metavar="RUN_DIR", help="the run directory, as `run` prints it: a path or an URI"
    )
    parser.add_argument(
        "--out", default="report.html", metavar="FILE", help="the page. Default: report.html."
    )
    return parser


def execute(options: dict[str, Any]) -> int:
    """Write it and say where."""
    from tasks.report.files import report_run

    page, text = report_run(options["run"], Path(options["out"]))
    if options["json"]:
        print(json.dumps({"report_file": str(page), "markdown_file": str(text)}))
    else:
        print(f"report    {page}")
        print(f"markdown  {text}")
    return int(ExitCode.OK)
