"""Step infer in this process, as soon as a device is free for it."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from engine.choices import ENDPOINT
from engine.cost.devices import devices_from
from tasks.infer.backends.engine_process import Here
from tasks.infer.backends.ray_cluster import connect, places_on_ray
from tasks.infer.give_way import announced, ask_for_device, machine_place, wait_until_free
from tasks.infer.infer import infer
from tasks.runlog.records import LogFormatError
from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tasks.infer.progress import InferProgress
    from tasks.night.night import Night

log = logging.getLogger(__name__)

ASK_S: Final = 5.0
"""Between two times of asking while a run waits for a device."""


def infer_here(
    night: Night,
    on_progress: Callable[[InferProgress], None] | None = None,
    *,
    place: str | None = None,
    limit: AbstractContextManager[None] | None = None,
) -> dict[str, Any]:
    """Run step infer, after a run that has the device and gives way has stopped.

    Parameters
    ----------
    place
        Of what it wants a device, see `tasks.infer.give_way.Announcement`; None is this machine.
    limit
        Entering it waits for a free device of the place; held while engines run, and no longer: what is read
        before them and written after them needs no device. Without one the run that was asked is waited for.

    Returns
    -------
    dict
        See `tasks.infer.infer.infer`, also for what is raised.
    """
    if night.engine.name == ENDPOINT:
        # Its devices are elsewhere, and not ours to share out.
        return infer(night, on_progress)
    settings = night.settings
    if settings.ray is not None:
        # Who waits for what there the cluster knows itself.
        connect(settings.ray)
        return infer(night, on_progress, places=places_on_ray(settings.replicas, settings.device))
    held = _device(night, place or machine_place(settings.device), limit)
    places = [Here(device) for device in devices_from(settings.device, settings.replicas)]
    return infer(night, on_progress, held, places)


@contextmanager
def _device(night: Night, place: str, limit: AbstractContextManager[None] | None) -> Iterator[None]:
    """Have a device of a place for the length of the block."""
    with ExitStack() as held:
        if limit is None:
            asked = ask_for_device(night, place)
            if asked is not None:
                wait_until_free(asked)
        else:
            with _asking(night, place):
                held.enter_context(limit)
        held.enter_context(announced(night, place))
        yield


@contextmanager
def _asking(night: Night, place: str) -> Iterator[None]:
    """Ask for a device as long as the block waits for one.

    Not once: whoever had the device first may be followed by another that gives way.
    """
    got = threading.Event()

    def ask() -> None:
        while not got.wait(ASK_S):
            try:
                ask_for_device(night, place)
            except (StoreUnavailableError, LogFormatError) as error:
                log.warning("could not ask for a device of %s: %s", place, error)

    thread = threading.Thread(target=ask, name="ask-for-device", daemon=True)
    thread.start()
    try:
        yield
    finally:
        got.set()
        thread.join()
