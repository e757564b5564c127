"""The benchmark of host time still fits the engine."""

from __future__ import annotations

import pytest

from tests.benchmarks.engine.host_time import ROWS, steps


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_of_the_benchmark_runs(row) -> None:
    name, temperature, without, others = row
    sequences = others.get("sequences", 40) // 8
    with without():
        found = steps(2, temperature, **{**others, "sequences": sequences})
    assert len(found) == 2, name
    assert all(step.sequences >= 0.95 * sequences and step.seconds > 0.0 for step in found)
