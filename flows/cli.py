"""The command line, `nightblend COMMAND`: a command is a module of `flows.commands`, loaded when typed."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from flows.parameters.spelling import meant
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flows.commands.parser import CommandParser

COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Before the first night": {
        "formats": "tell what logs are taken for, and what would become of their lines",
        "warm": "compile ahead of the first night",
        "doctor": "look whether a night could run",
        "estimate": "tell what a night of past logs would take and save",
        "calibrate": "measure this machine",
        "compare": "measure engines and orders against each other",
        "pilot": "try a sample of a date in both orders, and tell what the night would take",
    },
    "Nights": {
        "run": "run one night",
        "retry": "answer again what failed of a date",
        "backfill": "run past dates",
        "status": "show how a date stands, and what to type next",
        "serve": "run nights on a schedule from this process",
        "deploy": "make a Prefect server ready for nights",
    },
    "A candidate": {
        "shadow": "answer a published date with something different, and compare",
        "promote": "give a candidate a larger share of the nights",
        "hold": "keep a candidate at its share",
        "fall-back": "take a candidate back",
    },
    "What a run did": {
        "inspect": "show what a run did",
        "report": "write a page about a run",
        "trust": "compare planned and actual figures of past runs",
    },
    "What is kept": {
        "rollback": "show the publications of dates, and go back to earlier ones",
        "gc": "delete what is kept no longer",
        "forget": "take requests out of all that is kept",
    },
}
"""Heading -> command -> what it does, in the order that `--help` shows them."""
NAMES: Final = tuple(name for commands in COMMANDS.values() for name in commands)


class Command(Protocol):
    """A module of `flows.commands`."""

    def make_parser(self) -> CommandParser:
        """Return its options."""

    def execute(self, options: dict[str, Any]) -> int:
        """Do the work; return the exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (`tasks.base.accounting.ExitCode`).

    Parameters
    ----------
    arguments
        Without the program's name; None takes the process's own.

    Raises
    ------
    SystemExit
        With 2 if options are wrong, and with 0 after `--help` of a command.
    """
    name, *typed = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in {"-h", "--help"}:
        print(usage())
        return int(ExitCode.OK)
    if name == "--version":
        from tasks.base.release import release

        print(f"nightblend {release()}")
        return int(ExitCode.OK)
    if name not in NAMES:
        _refuse(name)
    try:
        command = load(name)
        return int(command.execute(command.make_parser().finish().parse(typed)))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: every end has its exit code
        return explain(error)


def load(name: str) -> Command:
    """Return a command of that name."""
    return cast("Command", import_module(f"flows.commands.{name.replace('-', '_')}"))


def usage() -> str:
    """Return what `nightblend --help` prints."""
    lines = ["usage: nightblend COMMAND [OPTIONS]", "", "Scheduled offline batch LLM inference."]
    for heading, commands in COMMANDS.items():
        lines += ["", f"{heading}:", *(f"  {name:<11}{what}" for name, what in commands.items())]
    return "\n".join(
        [
            *lines,
            "",
            "`nightblend COMMAND --help` shows the options of a command, `nightblend --version` the version.",
        ]
    )


def explain(error: BaseException) -> int:
    """Say in one line on stderr why a night did not end well; return the exit code."""
    if isinstance(error, ConfigurationError):
        # The most frequent one, told without loading what else can fail.
        print(f"nightblend: {' '.join(str(error).split())}", file=sys.stderr)
        return int(ExitCode.USAGE)
    from flows.run.failures import TOLD, describe, exit_code_of, stopped_by_full_disk, without_prefect

    error = stopped_by_full_disk(error) or without_prefect(error) or error
    code = exit_code_of(error)
    text = "stopped." if isinstance(error, KeyboardInterrupt) else describe(error)
    if not isinstance(error, (*TOLD, KeyboardInterrupt)):
        # Its own words could quote a prompt; its type and place cannot.
        text += "; run with NIGHTBLEND_DEBUG=1 for the whole trace"
        if os.environ.get("NIGHTBLEND_DEBUG"):
            logging.getLogger(__name__).error("failed", exc_info=error)
    if code is ExitCode.STOPPED and "again" not in text:
        text = f"{text.removesuffix('.')}. Run the same command again to go on."
    print(f"nightblend: {text}", file=sys.stderr)
    return int(code)


def _refuse(name: str) -> NoReturn:
    if not name:
        said = "a command is missing."
    elif name.startswith("-"):
        like = meant(name, ("--help", "--version"))
        said = f"{name} is not known before a command" + (f"; {like}" if like else ".")
    else:
        like = meant(name, NAMES)
        said = f"{name} is no command" + (f"; {like}" if like else ".")
    print(f"nightblend: {said} See `nightblend --help`.", file=sys.stderr)
    sys.exit(ExitCode.USAGE)


if __name__ == "__main__":
    sys.exit(main())
