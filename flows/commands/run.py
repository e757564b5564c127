"""`nightblend run`: one night."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from flows.commands.common import stopped_by_sigterm
from flows.commands.parser import CommandParser
from flows.parameters.nightly import NightlyParameters

if TYPE_CHECKING:
    from flows.api import NightResult


def make_parser() -> CommandParser:
    """Return the options of the command, which are the fields of `NightlyParameters`."""
    parser = CommandParser(
        "run",
        description="Run one night: extract, tokenize, profile, plan, infer, publish. A stopped run goes "
        "on, a finished one answers at once.",
        epilog="Exit codes: 0 done, 1 failed or aborted, 2 wrong usage, 3 done with more bad rows than "
        "allowed, 4 stopped and resumable, 5 another live run owns the date.",
    )
    parser.add_form(NightlyParameters)
    parser.add_flow_option("on where PREFECT_API_URL names a server")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Run the night and print its result."""
    as_json, as_flow = options.pop("json"), options.pop("as_flow")
    if as_flow is None:
        # Starting Prefect's own API inside the process takes about ten seconds.
        as_flow = bool(os.environ.get("PREFECT_API_URL"))

    def tell(result: NightResult) -> None:
        _print(result, as_json=as_json)

    with stopped_by_sigterm():
        parameters = NightlyParameters.parse(options)
        from flows.api import run_night

        if not as_flow:
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
        return int(run_night(parameters, as_flow=as_flow, on_result=tell).exit_code)


def _print(result: NightResult, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False), flush=True)
    else:
        from flows.views.console import print_table

        print_table(result.details)
