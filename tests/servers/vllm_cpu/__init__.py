"""vLLM on the CPU as a real engine of the tests, in an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

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


@contextmanager
def vllm_server(
    model: Path, log: Path, port: int, *, kv_tokens: int, token_budget: int, max_sequences: int
) -> Iterator[str]:
    """Serve a model with vLLM's own server for the length of the block; return the address of its API."""
    library = PYTHON.parents[1] / "lib" / "libiomp5.so"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "LD_PRELOAD": str(library),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    options = {
        "model": str(model),
        "served-model-name": SERVED,
        "dtype": "float32",
        "port": str(port),
        "host": "127.0.0.1",
        "block-size": str(BLOCK),
        "num-gpu-blocks-override": str(kv_tokens // BLOCK + 1),
        "max-num-batched-tokens": str(token_budget),
        "max-num-seqs": str(max_sequences),
        "max-model-len": "4096",
    }
    typed = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *typed]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--enforce-eager", "--enable-prompt-tokens-details"],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # Its engine is a process of its own, which would outlive it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])
