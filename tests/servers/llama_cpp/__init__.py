"""llama.cpp's own server as a real server of the tests; `serve` runs in an environment of its own."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = ROOT / ".venv-llama-cpp" / "bin" / "python"
"""`make test-llama-cpp` makes it."""


class LlamaCpp:
    """A running server."""

    def __init__(self, model: Path, file: Path) -> None:
        self._command = [str(PYTHON), str(ROOT / "tests/servers/llama_cpp/serve.py"), str(model), str(file)]
        self.log = file.with_suffix(".log")
        self.address = ""
        self.start()

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def start(self) -> None:
        """Start it, on the port of before if there was one."""
        port = [self.address.rpartition(":")[2]] if self.address else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.log.read_text()[-2000:]

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextmanager
def llama_cpp(model: Path, folder: Path) -> Iterator[LlamaCpp]:
    """Serve a model for the length of the block; its file is written into `folder`."""
    server = LlamaCpp(model, folder / "model.gguf")
    try:
        yield server
    finally:
        server.kill()
