"""A Prefect server and a process worker, as an operator starts them, from an environment with the wheel."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.servers.debian import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 150.0


class Installation:
    """Scripts of an environment, run from a folder against one Prefect server.

    Attributes
    ----------
    scripts : Path
        Folder with `prefect` and `nightblend`.
    folder : Path
        Where everything is run from.
    ui, api : str
        URLs of the server's pages and of its API.
    """

    def __init__(self, scripts: Path, folder: Path, database: str, logs: Path) -> None:
        self.scripts, self.folder, self.logs = scripts, folder, logs
        self.port = free_port()
        self.ui = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.ui}/api"
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT", "PYTHON"))}
        self.environment = {
            **kept,
            "PREFECT_HOME": str(logs / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_API_URL": self.api,
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            # The folder has decoys.
            "PREFECT_PLUGINS_ENABLED": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "NO_PROXY": "127.0.0.1",
            # Between two looks for runs that are due; the default of 10 s is half of a short run's time.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "COLUMNS": "200",
        }

    def run(self, script: str, *arguments: str, code: int = 0, timeout: float = 180) -> str:
        """Run a script to its end and return what it wrote; `code` is the exit code that it must have."""
        done = subprocess.run(
            [str(self.scripts / script), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    @contextmanager
    def started(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a script beside the block; its output goes to a file of its name."""
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self.scripts / command[0]), *command[1:]],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def server(self) -> Iterator[None]:
        """Run the server beside the block."""
        command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        with self.started("server", *command) as process:
            end = time.monotonic() + START_S
            while not self._answers():
                ended = process.poll() is not None
                if ended or time.monotonic() > end:
                    text = (self.logs / "server.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"the Prefect server did not start: {text}")
                time.sleep(0.5)
            yield

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.api}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False
