"""Is the holder of a run still there? Process identity, and the heartbeat."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from tasks.runlog.records import Claim, Owner, utc_now
from tasks.store.contract import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.runlog.records import LogRecord
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

_PROC = Path("/proc")
REPLICAS: Final = "replicas"
"""What a sign of life says of the run's replicas, where there are several."""


def this_process() -> Owner:
    """Return the identity of the calling process."""
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, _start_time(pid), _boot_id(), _pid_namespace())


def is_gone(owner: Owner) -> bool:
    """Tell whether `owner` was a process of this machine and has certainly ended.

    False when in doubt: another machine, another container, or a system that does not tell.
    """
    here = this_process()
    if owner.host != here.host:
        return False
    if here.start_time is None:
        # No /proc (macOS): a pid that nobody has is gone, one in use may be someone else's by now.
        return not owner.boot_id and not _pid_in_use(owner.pid)
    if (owner.boot_id, owner.pid_namespace) != (here.boot_id, here.pid_namespace) or not owner.boot_id:
        return False
    return _start_time(owner.pid) != owner.start_time


def holder_is_gone(holder: LogRecord) -> bool:
    """Tell whether whoever wrote a claim was a process of this machine and has certainly ended."""
    return isinstance(holder.body, Claim) and is_gone(holder.body.owner)


def held_by_live(prefix: str, holder: LogRecord, age: float, lease_s: float) -> str:
    """Return what to tell a person who wants a run whose holder is alive.

    Parameters
    ----------
    age
        Of the holder's last sign of life, seconds.
    """
    owner = holder.body.owner if isinstance(holder.body, Claim) else None
    whom = f"pid {owner.pid} on {owner.host}" if owner else "another process"
    return (
        f"{prefix} is held by a live run: {whom} since {holder.at}, "
        f"last sign of life {age:.0f} s ago. "
        f"Wait until it ends, or pass --take-over to stop it at its next write; "
        f"if it has died, it can be claimed {max(0.0, lease_s - age):.0f} s from now."
    )


def _start_time(pid: int) -> int | None:
    try:
        # The name of the program, in parentheses, may hold spaces and parentheses itself.
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        values = stat.rpartition(")")[2].split()
    except OSError:
        return None
    # Fields 3 and 22 of proc(5). A zombie has ended; only its parent has not taken note.
    return None if values[0] in {"Z", "X"} else int(values[19])


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _pid_in_use(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class HeartbeatObject:
    """Says that the holder of a run is alive: by whose claim, and something new each time."""

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self._store = store

    def put(self, claim: LogRecord, told: Mapping[str, Any]) -> None:
        """Write a sign of life of the holder by `claim`, with what it tells of itself."""
        beat = {"epoch": claim.epoch, "nonce": claim.nonce, "beat": uuid4().hex, "at": utc_now()}
        self._store.put(self.key, json.dumps({**told, **beat}).encode())

    def content(self) -> bytes:
        """Return the last sign of life, empty if there has been none."""
        try:
            return self._store.get(self.key)
        except ObjectNotFoundError:
            return b""

    def told_by(self, claim: LogRecord) -> dict[str, Any]:
        """Return the last sign of life of the holder by `claim`; empty if there is none, or none to read."""
        try:
            found = json.loads(self.content())
        except ValueError:
            return {}
        return found if isinstance(found, dict) and found.get("nonce") == claim.nonce else {}


class Heartbeat:
    """Calls `beat` in a thread, at once and every `interval_s` seconds, until stopped or it returns False.

    A beat that raises is a beat missed: the next one may succeed, and whether the run was lost meanwhile is
    decided by the log, not here.
    """

    def __init__(self, beat: Callable[[], bool], interval_s: float) -> None:
        self._beat = beat
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                if not self._beat():
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is, the next beat must be tried
                log.warning("heartbeat failed: %s", error)
            if self._stop.wait(self._interval_s):
                return
