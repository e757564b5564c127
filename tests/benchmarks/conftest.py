"""Dry runs of the GPU benchmarks interpret every kernel, so they are a part of `make test-kernels`."""

import os

if os.environ.get("NIGHTBLEND_KERNELS") != "triton":
    collect_ignore_glob = ["*/test_dry_run.py"]
