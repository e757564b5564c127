"""vLLM on the CPU as a real engine of the tests, in an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from tests.servers.debian import free_port
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
"""`make test-vllm` makes it."""
INSTALLED = PYTHON.parents[1] / ".installed"
WHY = "vLLM is not installed (make test-vllm installs it)"
START_S = 300.0
BLOCK = 32
SERVED = "demo"
"""Name of the model at the server."""


class VllmServer:
    """vLLM's own server, running.

    Parameters
    ----------
    model
        Folder of the model.
    log
        File for what it says.
    kv_tokens, token_budget, max_sequences
        Its sizes.
    """

    def __init__(
        self, model: Path, log: Path, *, kv_tokens: int, token_budget: int, max_sequences: int
    ) -> None:
        self.log, self._port = log, free_port()
        options = {
            "model": str(model),
            "served-model-name": SERVED,
            "dtype": "float32",
            "port": str(self._port),
            "host": "127.0.0.1",
            "block-size": str(BLOCK),
            "num-gpu-blocks-override": str(kv_tokens // BLOCK + 1),
            "max-num-batched-tokens": str(token_budget),
            "max-num-seqs": str(max_sequences),
            "max-model-len": "4096",
        }
        typed = [word for name, value in options.items() for word in (f"--{name}", value)]
        switches = ["--enforce-eager", "--enable-prompt-tokens-details"]
        self._command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *typed, *switches]
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def start(self) -> None:
        """Start it, and return when it answers."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "LD_PRELOAD": str(PYTHON.parents[1] / "lib" / "libiomp5.so"),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self._command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urlopen(f"{self.address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                time.sleep(0.5)
        self.kill()
        raise AssertionError(self.log.read_text()[-2000:])

    def kill(self) -> None:
        """End it with SIGKILL, and with it its engine, a process of its own which would outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm_server(model: Path, log: Path, **sizes: int) -> Iterator[VllmServer]:
    """Serve a model with vLLM's own server for the length of the block; `sizes` are those of `VllmServer`."""
    server = VllmServer(model, log, **sizes)
    try:
        yield server
    finally:
        server.kill()
