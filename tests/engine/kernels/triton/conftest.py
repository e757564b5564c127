"""Kernels are interpreted in one process and compiled in another, and run on a GPU in a third.

``TRITON_INTERPRET=1 NIGHTBLEND_KERNELS=triton`` collects the tests that interpret,
``NIGHTBLEND_KERNELS=compile`` those that compile (`make test-kernels` starts both), and
``NIGHTBLEND_KERNELS=cuda`` runs those of the operations on a GPU, in bfloat16 where the interpreter takes
float16, with new numbers in each run (`make test-gpu`). Anything else collects nothing here, so `make test`
leaves this folder alone.
"""

from __future__ import annotations

import os

import pytest
import torch

from engine.kernels.backend import interpreting
from tests.engine.kernels.triton import launches

COMPILE_TESTS = ["test_compile.py"]
# The first ones look at the interpreter itself, the last one starts a process of its own.
NOT_ON_GPU = [*COMPILE_TESTS, "test_backend.py", "test_whole_engine.py", "test_gpu_benchmark.py"]
mode = os.environ.get("NIGHTBLEND_KERNELS")
if mode == "triton" and interpreting():
    collect_ignore = COMPILE_TESTS
elif mode == "cuda" and not interpreting():
    collect_ignore = NOT_ON_GPU
elif mode == "compile" and not interpreting():
    collect_ignore_glob = ["test_*.py"]
else:
    collect_ignore_glob = ["*"]


def pytest_ignore_collect(collection_path) -> bool | None:
    if mode == "compile" and collection_path.name in COMPILE_TESTS:
        return False
    return None


def pytest_report_header() -> str | None:
    return f"kernels on the GPU: NIGHTBLEND_SEED={launches.SEED}" if launches.ON_GPU else None


@pytest.fixture(autouse=launches.ON_GPU)
def _on_the_gpu():
    """Everything that a test makes is on the device."""
    with torch.device(launches.DEVICE):
        # Torch notes which functions make tensors at the first of them, before any is replaced.
        torch.zeros(1)
        yield
