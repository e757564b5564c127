"""The command line of a benchmark on a GPU: parts in worker processes, one table, one file of results."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.gpu.report import Report, conclude, results_file, write
from tests.benchmarks.gpu.supervise import end, supervise
from tests.benchmarks.gpu.worker import command, parts_of
from tests.benchmarks.lib.places import RESULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 480.0
"""Seconds of all parts together."""


def main(place: str, kind: str, required: Sequence[str], about: str) -> int:
    """Read the command line, measure, print, and write the results of a GPU.

    Parameters
    ----------
    place
        The list of parts, as ``module:NAME``.
    kind
        What the file of the results begins with.
    required
        Figures without which the results are not complete.
    about
        The first line of it is what ``--help`` says.
    """
    parser = argparse.ArgumentParser(description=about.split("\n", 1)[0])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: checks the command itself")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", action="append", help="a part to measure again; may be repeated")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that all may take")
    arguments = parser.parse_args()
    if arguments.dry:
        # Before Triton is loaded.
        os.environ |= {"TRITON_INTERPRET": "1", "NIGHTBLEND_KERNELS": "triton"}
    else:
        import torch

        if not torch.cuda.is_available():
            print("unmeasured: no GPU")
            return 1
    # So that the workers, which are in sessions of their own, are ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return measure(arguments, Report(required), place, kind)


def measure(arguments: argparse.Namespace, report: Report, place: str, kind: str) -> int:
    """Run the parts and return the exit code."""
    begin, dry = time.monotonic(), arguments.dry
    parts = parts_of(place)
    if arguments.only:
        unknown = set(arguments.only) - {part.name for part in parts}
        if unknown:
            print(f"--only: {sorted(unknown)} is unknown; parts are {[part.name for part in parts]}")
            return 2
        parts = [part for part in parts if part.name in arguments.only]
        if not dry:
            import torch

            held = results_file(arguments.out, torch.cuda.get_device_name(), kind)
            if held.exists():
                report.load(held)

    def done() -> None:
        if not dry:
            write(report, arguments.out, time.monotonic() - begin, kind)

    warming = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not dry:
                warming = subprocess.Popen(
                    command(place, Path(folder), (), dry=False, warm=True), start_new_session=True
                )
            supervise(report, parts, place, Path(folder), dry=dry, limit=arguments.limit, done=done)
        finally:
            if warming is not None:
                end(warming)
    conclude(report, time.monotonic() - begin)
    if dry:
        print("unmeasured: no GPU")
    else:
        print(f"wrote {write(report, arguments.out, time.monotonic() - begin, kind)}")
    return 1 if report.failed or report.wrong() else 0
