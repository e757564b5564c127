"""Waiting for what the processes of flow runs do, and halting them at a chosen place.

Nothing here has to be quick: on a machine with much else to do a test takes longer, and still passes.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.runlog.log import RunLog

LONG_S = 600.0
STEP_S = 0.2
"""How long a process goes on between two looks: the engine answers about three long requests meanwhile."""


def wait(found: Callable[[], Any], tail: Callable[[], str] = str, pause_s: float = 0.5) -> Any:
    """Call until something is found; fail with `tail()` after `LONG_S`."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        result = found()
        if result:
            return result
        time.sleep(pause_s)
    raise AssertionError(f"not within {LONG_S:g} s{tail()}")


def process_of(run_id: str) -> psutil.Process | None:
    """Return the process of a flow run, as the worker has started it.

    Its engine has the same environment, and a lower number where numbers have just begun anew.
    """
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                found[process.pid] = process, process.ppid()
        except psutil.Error:
            continue
    return next((process for process, parent in found.values() if parent not in found), None)


def flow_process(log: RunLog) -> psutil.Process:
    """Return the process that holds a run."""
    holder = log.refresh().holder
    assert holder is not None
    return psutil.Process(holder.body.owner.pid)


def engine_of(process: psutil.Process) -> psutil.Process:
    """Return the engine that a flow process has started."""
    (engine,) = _engines(process)
    return engine


def computing(log: RunLog) -> psutil.Process | None:
    """Return the engine of a run, None while it has none."""
    holder = log.refresh().holder
    try:
        return None if holder is None else next(iter(_engines(flow_process(log))), None)
    except psutil.NoSuchProcess:
        return None


def halt_when(
    process: psutil.Process, seen: Callable[[], Any], tail: Callable[[], str] = str, rest_s: float = 0.0
) -> Any:
    """Let a process go on step by step until something is seen; return that, with the process halted.

    A process that goes on freely could be at its end before a busy machine lets anybody halt it.

    Parameters
    ----------
    rest_s
        How long it may take, after a step, until what was done in it is seen.
    """

    def step() -> Any:
        process.suspend()
        end = time.monotonic() + rest_s
        while not (found := seen()) and time.monotonic() < end:
            time.sleep(STEP_S)
        if not found:
            process.resume()
        return found

    return wait(step, tail, pause_s=STEP_S)


def resume_when_told_to_stop(process: psutil.Process, tail: Callable[[], str] = str) -> None:
    """Let a halted process go on once it was sent SIGTERM, so that it cannot have finished before."""
    wait(lambda: _was_sent(process, signal.SIGTERM), tail, pause_s=0.05)
    process.resume()


def _engines(process: psutil.Process) -> list[psutil.Process]:
    return [
        child for child in process.children(recursive=True) if "engine.backends.native" in child.cmdline()
    ]


def _was_sent(process: psutil.Process, number: signal.Signals) -> bool:
    """Tell whether a signal waits for a halted process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)
