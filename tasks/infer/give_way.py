"""A run that wants a device asks another one that gives way to stop; that one goes on later.

Who has a device is announced in the store by a small object below `_devices/`. It is a hint: what counts is
the log of the run it names, and a record `stop_requested` there. Both runs must have the same store. The
engine's device lock, and the limit of a Prefect pool, are what keeps two runs off one device.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from tasks.runlog.log import RunLog, is_live
from tasks.runlog.records import LogFormatError
from tasks.store.contract import ObjectNotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.night.night import Night
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

FOLDER: Final = "_devices"
"""In the root of a store; no job can have this name."""
POLL_S: Final = 1.0
WAIT_S: Final = 300.0
"""How long a run waits for one it has asked; a durable part is written within seconds of that."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A run is computing.

    Attributes
    ----------
    run
        Prefix of the run.
    place
        Of what it has the device: a limit of a Prefect pool (`gpu:pool`), or machine and device.
    gives_way
        Whether it may be asked to stop.
    """

    run: str
    place: str
    gives_way: bool


def machine_place(device: str) -> str:
    """Return the place of a device of this machine, where no pool shares several machines out."""
    return f"{socket.gethostname()}/{device}"


@contextmanager
def announced(night: Night, place: str) -> Iterator[None]:
    """Announce for the length of the block that a run has a device of `place`."""
    said = Announcement(night.log.prefix, place, night.settings.gives_way)
    key = f"{FOLDER}/{night.log.prefix.replace('/', '.')}.json"
    night.store.put(key, json.dumps(asdict(said)).encode())
    try:
        yield
    finally:
        # What is left behind is seen to be over by the log it names.
        with suppress(StoreUnavailableError):
            night.store.delete(key)


def holders(store: Store, place: str | None, *, lease_s: float) -> list[tuple[Announcement, RunLog]]:
    """Return who has devices of a place (None: anywhere) and is alive, with their logs.

    What cannot be read, an announcement or its log, is no reason for another night to fail.
    """
    found = []
    for info in store.list(f"{FOLDER}/"):
        try:
            said = Announcement(**json.loads(store.get(info.key)))
            run_log = RunLog(store, said.run, lease_s=lease_s)
            live = is_live(run_log)
        except ObjectNotFoundError:
            continue
        except (LogFormatError, ValueError, TypeError) as error:
            log.warning("%s is not understood (%s)", info.key, type(error).__name__)
            continue
        if not live:
            store.delete(info.key)
        elif place in {None, said.place}:
            found.append((said, run_log))
    return found


def ask_for_device(night: Night, place: str) -> RunLog | None:
    """Ask a run that has a device of `place` and gives way to stop at its next durable part.

    Returns
    -------
    RunLog or None
        Whom was asked; None if there is nobody to ask, or this run itself gives way.
    """
    if night.settings.gives_way:
        return None
    for said, run_log in holders(night.store, place, lease_s=night.settings.lease_s):
        if said.gives_way and said.run != night.log.prefix:
            reason = f"{night.job} of {night.run_date.isoformat()} wants the device"
            if run_log.state.stop_requested is not None or run_log.request_stop(reason, by=night.log.prefix):
                log.info("asked %s to give way", said.run)
                return run_log
    return None


def wait_until_free(run_log: RunLog, timeout_s: float = WAIT_S, poll_s: float = POLL_S) -> bool:
    """Wait until nobody alive holds a run; return False if somebody still does after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while is_live(run_log):
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def waits_for(run_log: RunLog) -> RunLog | None:
    """Return the run that a stopped run gave way to, as long as that one is still at work.

    Parameters
    ----------
    run_log
        Of the stopped run; it is read anew.
    """
    asked = run_log.refresh().stop_requested
    if asked is None or not asked.by:
        return None
    other = RunLog(run_log.store, asked.by, lease_s=run_log.lease_s)
    return other if is_live(other) else None
