"""Parts of a benchmark that go wrong in every way, for the tests of the process that watches over them."""

from __future__ import annotations

import os
import signal
import sys
import time

from tests.benchmarks.gpu.bench import Row, Unmeasured
from tests.benchmarks.gpu.worker import Part


def good(bench, figures):
    del bench
    return {"sum": figures.get("sum", 0) + 1}, [Row("good", 1.0, "GB/s", 0.5, 1e-3)]


def wrong(bench, figures):
    del bench, figures
    return {}, [Row("not a number", 1.0, "GB/s", 0.5, float("nan")), Row("far off", 1.0, "GB/s", 0.5, 0.5)]


def raises(bench, figures):
    del bench, figures
    raise ZeroDivisionError("one by zero")


def dies(bench, figures):
    del bench, figures
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(bench, figures):
    del bench, figures
    time.sleep(600)


def breaks(bench, figures):
    """Leave a device that answers nothing any more."""
    del bench, figures
    sys.modules["__main__"].healthy = lambda _: False
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def absent(bench, figures):
    del bench, figures
    raise Unmeasured("some engine is not installed")


PARTS = [
    Part("good", 60, good),
    Part("raises", 60, raises),
    Part("dies", 60, dies),
    Part("breaks", 60, breaks),
    Part("wrong", 60, wrong),
    Part("hangs", 0.0, hangs),
    Part("absent", 60, absent, alone=True),
    Part("good again", 60, good),
]
