"""Ceph's radosgw on this machine: one monitor, one OSD in memory, one gateway; nothing outside of a folder.

    python -m tests.servers.radosgw --install

installs the Debian packages if they are not there and this user may; else it says why not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, Self

from tests.servers.debian import free_port, install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAMS = ("monmaptool", "ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
ACCESS_KEY = "AKNIGHTBLEND"
SECRET_KEY = "test-secret-of-radosgw"
# Seconds that the whole start may take; ten suffice on an idle machine.
START_S = 130.0
CONFIGURATION = """[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 0
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
crash dir = {folder}
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class CannotStartError(RuntimeError):
    """The server did not start; the message names the step and ends with what its log says."""


class Server:
    """A running server; use it as a context manager.

    Raises
    ------
    CannotStartError
        On entering, where a step of the start fails or takes too long.

    Attributes
    ----------
    url : str
        Its endpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._configuration = folder / "ceph.conf"
        self._processes: list[subprocess.Popen[bytes]] = []
        gateway, self._monitor = free_port(), free_port()
        self.url = f"http://127.0.0.1:{gateway}"
        self._fsid = str(uuid.uuid4())
        self._deadline = 0.0
        text = CONFIGURATION.format(fsid=self._fsid, monitor=self._monitor, gateway=gateway, folder=folder)
        self._configuration.write_text(text)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        self._deadline = time.monotonic() + START_S
        folder = self._folder
        for name in ("mon", "osd"):
            (folder / name).mkdir()
        address = f"[v1:127.0.0.1:{self._monitor}]"
        map_file = str(folder / "monmap")
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", self._fsid, map_file)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", map_file)
        self._daemon("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self._until("the OSD is up", self._osd_is_up)
        user = ("--uid", "test", "--display-name", "test")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        self._run("radosgw-admin", "user", "create", *user, *keys)
        self._daemon("radosgw", "-n", "client.rgw.a")
        self._until("the gateway answers", self._answers)

    def _run(self, *command: str) -> bytes:
        left = max(1.0, self._deadline - time.monotonic())
        try:
            done = subprocess.run(
                [*command, "-c", str(self._configuration)], capture_output=True, timeout=left, check=False
            )
        except subprocess.TimeoutExpired:
            raise CannotStartError(
                f"{' '.join(command[:3])} was not done {START_S:g} s after the start{self._log()}"
            ) from None
        if done.returncode:
            raise CannotStartError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout

    def _daemon(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as out:
            started = subprocess.Popen(
                [*command, "-f", "-c", str(self._configuration)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        self._processes.append(started)

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        while not holds():
            ended = self._processes[-1].poll() is not None
            if ended or time.monotonic() > self._deadline:
                why = "its process ended" if ended else f"not within {START_S:g} s"
                raise CannotStartError(f"waiting until {what}: {why}{self._log()}")
            time.sleep(0.2)

    def _osd_is_up(self) -> bool:
        return bool(json.loads(self._run("ceph", "osd", "stat", "--format", "json"))["num_up_osds"])

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _log(self) -> str:
        """Return the last lines of every daemon's log."""
        ends = [
            f"\n{file.name}: ...{file.read_text(errors='replace')[-600:]}"
            for file in sorted(self._folder.glob("*.log"))
        ]
        return "".join(ends)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--install", action="store_true", required=True)
    parser.parse_args()
    why = install(PACKAGES, 100, lambda: not missing_programs())
    if why is not None:
        sys.exit(f"{why}; the tests are skipped")
