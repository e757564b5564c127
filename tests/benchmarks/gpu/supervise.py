"""Runs the parts of a GPU benchmark in other processes, each within its time.

A part that fails, crashes or takes too long is named, with its traceback, and does not keep the others from
being measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tests.benchmarks.gpu.worker import Part, command, result_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.gpu.report import Report

START = 60.0
"""Seconds that a process may take until its first part begins."""
PATIENCE = 10.0
"""How much longer each part may take in a dry run, whose times mean nothing."""


def supervise(
    report: Report, parts: list[Part], place: str, folder: Path, *, dry: bool, limit: float, done
) -> None:
    """Run `parts` of the list at `place` in worker processes and call `done` after each.

    A worker that dies, hangs or loses its device is replaced by another one for the parts that are left.
    """
    left, begin = list(parts), time.monotonic()
    while left:
        group = [left[0]] if left[0].alone else []
        for part in left if not group else ():
            if part.alone:
                break
            group.append(part)
        (folder / "figures.json").write_text(json.dumps(report.figures))
        names = [part.name for part in group]
        # A session of its own, so that the processes that it starts can be ended with it.
        worker = subprocess.Popen(command(place, folder, names, dry=dry), start_new_session=True)
        try:
            grace = START
            for part in group:
                allowed = part.seconds * (PATIENCE if dry else 1.0) + grace
                allowed = min(allowed, limit * (PATIENCE if dry else 1.0) - (time.monotonic() - begin))
                result, alive = await_result(worker, result_file(folder, part.name), part, allowed)
                left.pop(0)
                report.add(result)
                done()
                if not alive:
                    break
                grace = 0.0
            else:
                # The interpreter's end, in which a device gives back its memory, belongs to the last part.
                worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            print("the process did not end and was ended")
        finally:
            end(worker)


def await_result(
    worker: subprocess.Popen[bytes], path: Path, part: Part, allowed: float
) -> tuple[dict[str, Any], bool]:
    """Return the result of a part, and whether its worker may go on with the next one."""
    begin = time.monotonic()
    while True:
        ended = worker.poll()
        if path.exists():
            result = json.loads(path.read_text())
            return result, result["healthy"]
        seconds = time.monotonic() - begin
        if ended is not None:
            problem = f"the process ended with code {ended}"
        elif seconds > allowed:
            problem = f"took longer than the {max(allowed, 0.0):.0f} s that were left for it"
        else:
            time.sleep(0.05)
            continue
        print(f"  {part.name}: {problem}")
        nothing: dict[str, Any] = {"figures": {}, "rows": []}
        return {**nothing, "name": part.name, "seconds": seconds, "failed": {"error": problem}}, False


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and every process that it has started."""
    # It may have ended by itself, with all of its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
