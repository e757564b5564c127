"""`nightblend estimate`: what a night of past logs would take and save."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.parser import add_command, add_fields
from flows.parameters.estimate import EstimateParameters
from flows.parameters.to_request import estimate_request
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

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
    add_fields(parser, EstimateParameters.model_fields)


def execute(options: dict[str, Any]) -> int:
    """Make the estimate and print it."""
    from flows.views.estimate import print_estimate

    as_json, with_flow = options.pop("json"), options.pop("with_flow", None)
    parameters = EstimateParameters.parse(options)
    out = None if parameters.out is None else Path(parameters.out)
    if out is not None and not out.parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {out.parent}", "Make it, or name another")
    result = _estimate(parameters, with_flow=bool(with_flow))
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_estimate(result)
        if out is not None:
            print(f"\nThe page is {out}")
    return int(ExitCode.OK)


def _estimate(parameters: EstimateParameters, *, with_flow: bool) -> dict[str, Any]:
    request = estimate_request(parameters)
    if with_flow:
        from flows.estimate import estimate as flow

        return flow(parameters)
    from tasks.estimate.estimate import estimate

    result = estimate(request, told=lambda text: print(text, file=sys.stderr, flush=True))
    if parameters.out is not None:
        from tasks.estimate.page import document
        from tasks.report.document import to_html

        Path(parameters.out).write_text(to_html(document(result)), encoding="utf-8")
    return result
