"""`nightblend trust`: planned against actual over a job's past runs."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser, whole
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "trust",
        description="Show how far the planned figures of a job's past runs were off: the time of steps, the "
        "lengths of answers, the time in total. `estimate --store S --job J` corrects its figures by them.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--runs", type=whole, default=30, help="latest runs to look at. Default: 30.")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Print the errors."""
    from flows.views.estimate import print_trust
    from tasks.estimate.trust import past_errors

    result = past_errors(options["store"], options["job"], max(1, options["runs"]))
    if options["json"]:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_trust(result)
    return int(ExitCode.OK)
