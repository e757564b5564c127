"""`nightblend estimate`: what a night of past logs would take and save."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser
from flows.parameters.estimate import EstimateParameters
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command, which are the fields of `EstimateParameters`."""
    parser = CommandParser(
        "estimate",
        description="Tell from past logs what a night would take on GPUs that are not rented yet, and what "
        "it would save against an engine without overlap. Simulated: no GPU is needed.",
    )
    parser.add_form(EstimateParameters)
    parser.add_flow_option("off")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Make the estimate and print it."""
    as_json, as_flow = options.pop("json"), options.pop("as_flow")
    parameters = EstimateParameters.parse(options)
    from flows.api import estimate
    from flows.views.estimate import print_estimate

    found = estimate(parameters, as_flow=bool(as_flow)).as_dict()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_estimate(found)
        if parameters.out is not None:
            print(f"\nThe page is {parameters.out}")
    return int(ExitCode.OK)
