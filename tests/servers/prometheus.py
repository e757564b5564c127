"""A Prometheus server of Debian's on this machine; nothing outside of a folder.

    python -m tests.servers.prometheus --install

installs the package if it is not there and this user may; else it says why not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from tests.servers.debian import free_port, install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAMS = ("prometheus", "promtool")
START_S = 60.0


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Server:
    """A running server; use it as a context manager.

    Parameters
    ----------
    configuration
        Its file; paths in it are relative to its folder.
    folder
        For its data.
    """

    def __init__(self, configuration: Path, folder: Path) -> None:
        self._configuration, self._folder = configuration, folder
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._configuration}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            self.until(self._is_ready, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def ask(self, what: str, **parameters: str) -> Any:
        """Return the data of an answer of its API, as `ask("query", query="up")`."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{what}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds; raise with the end of the log if it does not within the time."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                log = (self._folder / "prometheus.log").read_text()[-2000:]
                raise TimeoutError(f"Prometheus: not within {seconds:g} s\n{log}")
            time.sleep(0.25)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def main() -> int:
    """Install what is missing; return 1 if it cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", action="store_true")
    parser.parse_args()
    problem = install(["prometheus"], 45, lambda: not missing_programs())
    if problem is not None:
        print(problem)
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main())
