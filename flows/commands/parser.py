"""How every command reads its options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Callable, Mapping
    from datetime import date, time
    from typing import TypeAlias

    from pydantic.fields import FieldInfo

    Commands: TypeAlias = _SubParsersAction["CommandParser"]


_METAVAR: Final = {"model_filter": "PATTERN", "columns": "FIELD=COLUMN"}


class CommandParser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End the process with that line."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def add_command(
    commands: Commands,
    name: str,
    execute: Callable[[dict[str, Any]], int],
    *,
    help: str,  # noqa: A002 - argparse's own word
    description: str,
    **settings: Any,  # noqa: ANN401 - passed on to argparse
) -> CommandParser:
    """Return the parser of a new command with the option `--json`, which every command has.

    Parameters
    ----------
    execute
        Takes the options by name, returns the exit code.
    settings
        Of `argparse.ArgumentParser`.
    """
    parser = commands.add_parser(name, help=help, description=description, allow_abbrev=False, **settings)
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object on stdout")
    parser.set_defaults(execute=execute)
    return parser


def add_fields(parser: argparse._ActionsContainer, fields: Mapping[str, FieldInfo]) -> None:
    """Add an option for each field of a form; what is not typed is left out of the options.

    A list is an option that may be repeated, a yes or no has its `--no-` counterpart.
    """
    for name, field in fields.items():
        text = (field.description or "").replace("%", "%%")
        typed = "--" + name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(
                typed, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        elif field.default_factory is not None:
            metavar = _METAVAR.get(name, name.upper())
            parser.add_argument(typed, action="append", metavar=metavar, default=argparse.SUPPRESS, help=text)
        else:
            if field.default is not None and not field.is_required():
                text += f" Default: {field.default}."
            parser.add_argument(typed, metavar=name.upper(), default=argparse.SUPPRESS, help=text)


def parse_date(text: str, name: str = "--run-date") -> date:
    """Return a date given as 2026-11-22.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    from datetime import date

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(name, f"{text!r} is no date", "Give it as 2026-11-22") from None


def parse_ready_by(text: str) -> time:
    """Return the time of day of option `--ready-by`, given as 07:00.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    from datetime import UTC, datetime

    try:
        return datetime.strptime(text, "%H:%M").replace(tzinfo=UTC).time()
    except ValueError:
        raise ConfigurationError("--ready-by", f"{text!r} is no time of day", "Give it as 07:00") from None


def interrupt(*_: object) -> NoReturn:
    """Take a signal as an interrupt: a stop of the container is a stop of the run, which can go on."""
    raise KeyboardInterrupt
