"""What the servers of the tests have in common: Debian packages, and a free port."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def install(packages: Sequence[str], megabytes: int, present: Callable[[], bool]) -> str | None:
    """Install packages unless what they bring is `present`; return why not, None once it is there."""
    if present():
        return None
    named = " ".join(packages)
    with _one_at_a_time():
        return None if present() else _install(packages, named, megabytes, present)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold what all processes of this machine that install packages hold."""
    with (Path(tempfile.gettempdir()) / "nightblend-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(packages: Sequence[str], named: str, megabytes: int, present: Callable[[], bool]) -> str | None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return f"{named} is not installed, and only root on Debian can do it here"
    print(f"installing {named} (about {megabytes} MB)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-qy", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            return f"{' '.join(command)} failed: {done.stderr.decode(errors='replace')[-500:]}"
    return None if present() else f"{named} did not bring what is needed"


def free_port() -> int:
    """Return a port of this machine that nobody listens on.

    None of those that outgoing connections get: one could have it before the server has started.
    """
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
