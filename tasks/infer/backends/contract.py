"""Where engines run, and an engine that runs, as step infer sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class RunningEngine(Protocol):
    """An engine that answers the job of a folder."""

    @property
    def folder(self) -> Path:
        """The job; files that messages name are there when the messages are."""

    @property
    def ended(self) -> bool:
        """Whether all messages have been returned, and no more will come."""

    @property
    def lost(self) -> str | None:
        """Why nothing more is heard from where it ran; None as long as that is not so."""

    def notify(self, arrived: threading.Event) -> None:
        """Set an event from now on whenever a message has come; those before have to be looked for."""

    def poll(self) -> dict[str, Any] | None:
        """Return the next message if it is there; None if not, or if the engine has `ended`."""

    def last_messages(self) -> Iterator[dict[str, Any]]:
        """Ask the engine to stop and return what it still sends: answers that were finished."""

    def ask_to_stop(self) -> None:
        """Have the engine finish its step, send what it has, and end."""

    def ask_to_give(self) -> None:
        """Ask for a message `given`: only of an engine that says among its capabilities that it `gives`."""

    def close(self) -> int:
        """End the engine if it still runs, and return its exit code (negative: the signal)."""


class Place(Protocol):
    """Where the engines of a replica run, one after the other."""

    @property
    def device(self) -> str:
        """What they compute on there, a name of `engine.cost.devices`."""

    def ready(self) -> bool:
        """Tell whether an engine can be started now; ask for the place if it is not there."""

    def start(self, folder: Path) -> AbstractContextManager[RunningEngine]:
        """Start an engine on the job of a folder, at a place that is `ready`; end it with the block."""

    def leave(self) -> None:
        """Let others have the place. It may be asked for again."""
