"""`nightblend fall-back`: a candidate gets no requests any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.candidate import make_moving_parser, move

if TYPE_CHECKING:
    from flows.commands.parser import CommandParser


def make_parser() -> CommandParser:
    """Return the options of the command."""
    return make_moving_parser(
        "fall-back",
        "Take the candidate of a nightly back: from the next night on everything is answered as before. What "
        "is published stays; `nightblend rollback` is for that.",
    )


def execute(options: dict[str, Any]) -> int:
    """Take it back."""
    from tasks.canary.stages import FALL_BACK

    return move(options, FALL_BACK)
