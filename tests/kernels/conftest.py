"""Kernels are interpreted in one process and compiled in another; `make test-kernels` starts both.

``TRITON_INTERPRET=1 NIGHTBLEND_KERNELS=triton`` collects the tests that interpret, and
``NIGHTBLEND_KERNELS=compile`` those that compile. Anything else collects nothing here, so `make test` leaves
this folder alone.
"""

from __future__ import annotations

import os

from engine.kernels.backend import interpreting

COMPILE_TESTS = ["test_compile.py"]
mode = os.environ.get("NIGHTBLEND_KERNELS")
if mode == "triton" and interpreting():
    collect_ignore = COMPILE_TESTS
elif mode == "compile" and not interpreting():
    collect_ignore_glob = ["test_*.py"]
else:
    collect_ignore_glob = ["*"]


def pytest_ignore_collect(collection_path) -> bool | None:
    if mode == "compile" and collection_path.name in COMPILE_TESTS:
        return False
    return None
