"""The parts of the overlap benchmark in the order in which they run, with the most time of each."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.gpu.ops import ceilings
from tests.benchmarks.gpu.worker import Part
from tests.benchmarks.overlap.cascade import cascade
from tests.benchmarks.overlap.gain import predict
from tests.benchmarks.overlap.pair import curves, pair, surface

REQUIRED = (
    "read_by_blocks",
    "products_by_rows",
    "pair_ratio",
    "pair_surface",
    "surface_by_k",
    "clocks",
    "predicted_gain",
    "cascade_speedup_16k_256_64",
    "cascade_min",
)
PARTS = [
    Part("ceilings", 45, ceilings),
    Part("curves", 90, curves),
    Part("pair", 60, pair),
    # In a process of its own, and not on the critical path.
    Part("green contexts", 60, partial(pair, green=True), alone=True),
    Part("surface", 75, surface),
    Part("prediction", 90, predict),
    Part("cascade", 60, cascade),
]
