"""`nightblend inspect`: what a run did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.commands.parser import add_command
from tasks.base.accounting import ExitCode

if TYPE_CHECKING:
    from flows.commands.parser import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "inspect",
        execute,
        help="show what a run did",
        description="Show what a run did: shared prefixes, densities, the mix over time, planned and actual "
        "figures. Nothing of a prompt is shown.",
    )
    parser.add_argument("run", metavar="RUN", help="the run directory, as `run` prints it: a path or an URI")
    parser.add_argument("--top", type=int, default=10, help="most prefixes to list. Default: 10.")


def execute(options: dict[str, Any]) -> int:
    """Print it."""
    from flows.views.inspect import print_inspection
    from tasks.report.inspect_run import inspect_run

    result = inspect_run(options["run"], options["top"])
    if options["json"]:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_inspection(result)
    return int(ExitCode.OK)
