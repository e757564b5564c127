"""Processes that work for this one: how many, how they are started, and what is told when one ends early."""

from __future__ import annotations

import os
import subprocess
import sys
from math import ceil
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_PROCESSES: Final = 16
_ROOT: Final = Path(__file__).resolve().parents[2]
_CGROUPS: Final = Path("/sys/fs/cgroup")


class WorkerError(Exception):
    """A working process ended or failed; the run has to be started again."""


def usable_cores(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many cores this process may use: those it is bound to, and no more than its cgroup's quota.

    Parameters
    ----------
    groups : Path
        Where the cgroups are mounted.
    own : Path
        The file that names those of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(ceil(quota) for quota in _quotas(groups, own))]))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield the cores that each of the cgroups around this process grants, where it sets a limit."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in [*lines, "0::/", "0:cpu:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = groups / "cpu" if controllers else groups
        folder = mount / path.lstrip("/")
        # What a group grants, the groups around it may still cut.
        for group in (folder, *folder.parents):
            quota = _quota_of(group)
            if quota is not None:
                yield quota
            if group == mount:
                break


def _quota_of(group: Path) -> float | None:
    """Return the cores that a cgroup grants; None where it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def start_worker(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a module of this project as a process: ``python -m module FD arguments``, FD being its end.

    Parameters
    ----------
    module : str
        What is run.
    arguments : str
        What it is given after the number of its end of the pipe.
    variables : mapping or None
        Of its environment, beside those of this process.

    Returns
    -------
    (Popen, Connection)
        The process, and this end of the pipe.
    """
    ours, theirs = Pipe()
    # PYTHONSAFEPATH: a folder named `tasks` where the run was started must not be imported instead.
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(variables or {}), "PYTHONSAFEPATH": "1", "PYTHONPATH": paths},
            pass_fds=(theirs.fileno(),),
        )
    return process, ours


def how_it_ended(what: str, process: subprocess.Popen[bytes]) -> WorkerError:
    """Return what to raise once the other end is closed: it reads as a reset if messages were left unread."""
    code = process.wait()
    killed = ": it was killed, as is done where memory runs out" if code in {-9, 137} else ""
    return WorkerError(f"{what} ended with {code}{killed}; run it again, what is durable counts")


def how_it_failed(error: BaseException) -> str:
    """Return an error's type and place: its text could quote a prompt."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
    return f"{type(error).__name__}{where}"
