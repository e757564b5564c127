"""`nightblend promote`: a candidate gets a larger share of the nights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.candidate import make_moving_parser, move
from flows.commands.parser import number
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from flows.commands.parser import CommandParser


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = make_moving_parser(
        "promote",
        "Give the candidate of a nightly its next share, or --percent of the requests; also one that was "
        "held or taken back.",
    )
    parser.add_argument("--percent", type=number, metavar="NUMBER", help="its share; else the next step")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Promote it."""
    from tasks.canary.stages import PROMOTE

    percent = options["percent"]
    if percent is not None and not 0.0 < percent <= 100.0:
        raise ConfigurationError("--percent", f"{percent:g} is no share", "Give more than 0, at most 100")
    return move(options, PROMOTE)
