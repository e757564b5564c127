"""`nightblend inspect`: what a run did."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser, whole
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "inspect",
        description="Show what a run did: shared prefixes, densities, the mix over time, planned and actual "
        "figures. Nothing of a prompt is shown.",
    )
    parser.add_argument(
        "run", metavar="RUN_DIR", help="the run directory, as `run` prints it: a path or an URI"
    )
    parser.add_argument("--top", type=whole, default=10, help="most prefixes to list. Default: 10.")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Print it."""
    from flows.api import inspect
    from flows.views.inspect import print_inspection

    result = inspect(options["run"], options["top"]).as_dict()
    if options["json"]:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_inspection(result)
    return int(ExitCode.OK)
