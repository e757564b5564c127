"""The command line: `nightblend COMMAND`. The commands are in `flows/commands/`, a module each."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from flows.commands import (
    backfill,
    calibrate,
    deploy,
    doctor,
    estimate,
    forget,
    gc,
    inspect,
    report,
    rollback,
    run,
    serve,
    status,
    trust,
)
from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    run,
    backfill,
    status,
    doctor,
    inspect,
    report,
    estimate,
    trust,
    rollback,
    gc,
    forget,
    calibrate,
    deploy,
    serve,
)
"""In the order that `--help` shows them."""


def main(arguments: Sequence[str] | None = None, *, with_flow: bool | None = None) -> int:
    """Run the command line and return its exit code (`tasks.base.accounting.ExitCode`).

    Parameters
    ----------
    arguments
        Without the program's name; None takes the process's own.
    with_flow
        Whether a night runs as Prefect flow. None: only where `PREFECT_API_URL` names a server.
    """
    options = vars(_parser().parse_args(arguments))
    execute = options.pop("execute")
    if with_flow is not None:
        options["with_flow"] = with_flow
    try:
        return int(execute(options))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: every end has its exit code
        return explain(error)


def explain(error: BaseException) -> int:
    """Say in one line on stderr why a night did not end well; return the exit code."""
    from flows.run.failures import TOLD, describe
    from flows.run.sequence import exit_code_of

    code = exit_code_of(error)
    text = "stopped." if isinstance(error, KeyboardInterrupt) else describe(error)
    if not isinstance(error, (*TOLD, KeyboardInterrupt)):
        # Its own words could quote a prompt; its type and place cannot.
        text += "; run with NIGHTBLEND_DEBUG=1 for the whole trace"
        if os.environ.get("NIGHTBLEND_DEBUG"):
            logging.getLogger(__name__).error("failed", exc_info=error)
    hint = " Run the same command again to go on." if code is ExitCode.STOPPED else ""
    print(f"nightblend: {text}{hint}", file=sys.stderr)
    return int(code)


def _parser() -> CommandParser:
    parser = CommandParser(prog="nightblend", description="Scheduled offline batch LLM inference.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
