"""``PYTHON -m engine.backends.vllm FOLDER FD``: the process that holds vLLM."""

import os
import sys
from pathlib import Path

PRELOADED = "NIGHTBLEND_VLLM_PRELOADED"
"""Set once the libraries that have to be there first are."""


def start_again() -> None:
    """Start this process anew if libraries have to be loaded before all others; its id stays the same."""
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    if os.environ.get(PRELOADED) or not library.exists():
        return
    before = os.environ.get("LD_PRELOAD", "")
    preload = f"{library}:{before}" if before else str(library)
    environment = {**os.environ, "LD_PRELOAD": preload, PRELOADED: "1"}
    command = [sys.executable, "-m", "engine.backends.vllm", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606 - itself, no shell


if __name__ == "__main__":
    # A build for the CPU computes with Intel's OpenMP, which has to come before the one that torch brings.
    start_again()
    # What is set is left as it is; each is read when vLLM is imported.
    for name, value in {
        # One process: we decide between two steps what the next one is.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Nothing is told to anybody, and nothing is fetched.
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)

    from engine.backends.foreign.order import prepare
    from engine.backends.process import leave, main
    from engine.backends.vllm.answer import answer

    leave(main(answer, sys.argv[1:], prepare))
