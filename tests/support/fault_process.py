"""A process that runs a night of `tests.support.fault_nights`, to be killed or halted.

    python -m tests.support.fault_process FOLDER [--answer-s S] [--lease-s S]

It exits with the code that the command of a night would.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.run.failures import exit_code_of
from tests.support.fault_nights import Night
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping


class SlowNight(Night):
    """A night whose answers take a time and are noted in a file, which outlives the process."""

    answer_s = 0.0

    def answer(self, row: Mapping[str, Any]) -> str:
        """Return the text of a request's answer."""
        time.sleep(self.answer_s)
        with (self.root / "computed").open("a") as file:
            file.write(f"{row['request_id']}\n")
        return super().answer(row)


def start(folder: Path, *, answer_s: float, lease_s: float) -> subprocess.Popen[bytes]:
    """Start such a process."""
    command = [sys.executable, "-m", "tests.support.fault_process", str(folder)]
    times = ["--answer-s", str(answer_s), "--lease-s", str(lease_s)]
    with (folder / "process.log").open("ab") as log:
        return subprocess.Popen([*command, *times], cwd=ROOT, stdout=log, stderr=log)


def computed(folder: Path) -> Counter[str]:
    """Return how often each request was answered by these processes."""
    path = folder / "computed"
    return Counter(path.read_text().split() if path.exists() else ())


def main() -> int:
    """Run the night."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answer-s", type=float, default=0.0)
    parser.add_argument("--lease-s", type=float, default=2.0)
    options = parser.parse_args()
    night = SlowNight(
        options.folder, pytest.MonkeyPatch(), lease_s=options.lease_s, heartbeat_s=options.lease_s / 10
    )
    night.answer_s = options.answer_s
    _, error = night.process()
    if error is not None:
        print(repr(error), file=sys.stderr)
    return 0 if error is None else int(exit_code_of(error))


if __name__ == "__main__":
    sys.exit(main())
