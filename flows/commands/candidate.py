"""What `nightblend promote | hold | fall-back` share: a person moves the candidate of a nightly."""

from __future__ import annotations

import json
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode


def make_moving_parser(name: str, description: str) -> CommandParser:
    """Return the options of a command that moves a candidate."""
    parser = CommandParser(
        name, description=f"{description} The stage is kept in the store; Prefect may be down."
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the stage, for people")
    return parser


def move(options: dict[str, Any], action: str) -> int:
    """Move the candidate and say where it is now."""
    from tasks.canary.stages import move_by_hand
    from tasks.store.open import open_store

    store = open_store(options["store"])
    stage = move_by_hand(
        store, options["job"], action, percent=options.get("percent"), reason=options["reason"]
    )
    if options["json"]:
        print(json.dumps(stage.as_dict(), ensure_ascii=False))
    else:
        share = f"gets {stage.percent:g} % of the next night" if stage.percent else "gets nothing any more"
        print(f"{options['job']}: {stage.candidate} {share} ({stage.stage})")
    return int(ExitCode.OK)
