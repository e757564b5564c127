"""`nightblend hold`: a candidate stays at its share, however good its nights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.candidate import make_moving_parser, move

if TYPE_CHECKING:
    from flows.commands.parser import CommandParser


def make_parser() -> CommandParser:
    """Return the options of the command."""
    return make_moving_parser(
        "hold", "Keep the candidate of a nightly at its share. A broken limit still takes it back."
    )


def execute(options: dict[str, Any]) -> int:
    """Hold it."""
    from tasks.canary.stages import HOLD

    return move(options, HOLD)
