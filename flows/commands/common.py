"""What commands share beside how they read their options."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import time


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


def check_server(command: str) -> None:
    """Raise `ConfigurationError` unless a Prefect server is named."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigurationError(
            "PREFECT_API_URL",
            f"is not set, and `nightblend {command}` needs a Prefect server",
            "Start one by `prefect server start` and set it to http://127.0.0.1:4200/api",
        )


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Take SIGTERM as an interrupt within the block.

    A stop of the container is a stop of the run: what is answered is written, and the run can be resumed.
    """

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
