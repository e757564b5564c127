"""`nightblend warm`: compile ahead of the first night."""

from __future__ import annotations

import json
import sys
from typing import Any

from flows.commands.parser import CommandParser
from tasks.base.accounting import ExitCode


def make_parser() -> CommandParser:
    """Return the options of the command."""
    return CommandParser(
        "warm",
        description="Compile all functions that a night runs and keep them on disk, so that no night waits "
        "for it. Done once for a version, a Python and a processor: an installation and an image do it. Does "
        "nothing where it is done. NUMBA_CACHE_DIR names another folder; NUMBA_CPU_NAME=generic makes them "
        "for any processor.",
        epilog="Exit codes: 0 done, 2 there is no folder that can be written.",
    )


def execute(options: dict[str, Any]) -> int:
    """Compile, and tell how long it took."""
    from dataclasses import asdict

    from tasks.operations.warm import build_in_c, told, warm_everything

    as_json = options.pop("json")

    def begin(processor: str) -> None:
        print(f"Compiling for {processor}; this takes a minute or two, once.", file=sys.stderr, flush=True)

    warmed, missing = warm_everything(begin), build_in_c()
    if missing:
        what = "the engine is slower on the CPU. Install one (gcc), then warm again"
        print(f"Operations of the CPU in C are not built: {missing}; {what}.", file=sys.stderr)
    told_in_json = {**asdict(warmed), "folder": str(warmed.folder), "c_operations": missing or "built"}
    print(json.dumps(told_in_json) if as_json else told(warmed))
    return int(ExitCode.OK)
