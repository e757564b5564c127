"""`nightblend estimate`: what a night of past logs would take and save."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from flows.commands.parser import add_command, add_fields
from flows.estimate_parameters import EstimateParameters
from tasks.accounting import ExitCode

if TYPE_CHECKING:
    from flows.commands.parser import Commands


def add(commands: Commands) -> None:
    """Add the command; its options are the fields of `EstimateParameters`."""
    parser = add_command(
        commands,
        "estimate",
        execute,
        help="tell what a night of past logs would take and save",
        description="Tell from past logs what a night would take on GPUs that are not rented yet, and what "
        "it would save against an engine without overlap. Simulated: no GPU is needed.",
    )
    add_fields(parser, EstimateParameters, {"columns": "FIELD=COLUMN"})


def execute(options: dict[str, Any]) -> int:
    """Make the estimate and print it."""
    from flows.estimate_view import print_estimate
    from tasks.estimate.estimate import estimate

    as_json = options.pop("json")
    parameters = EstimateParameters.parse(options)
    result = estimate(parameters.to_request(), told=lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_estimate(result)
    return int(ExitCode.OK)
