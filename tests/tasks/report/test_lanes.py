"""Lanes of replicas: all work is in them, in its place, and tails are where there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.report import night_plots
from tasks.report.lanes import BINS, lanes_of

AT = datetime(2026, 1, 1, tzinfo=UTC)
# Of each step the time before it, its length, and the requests in it: ms, ms, count.
ONE = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 500), st.integers(0, 50)), min_size=1, max_size=20
)


def steps_of(*replicas: list[tuple[int, int, int]]) -> pl.DataFrame:
    rows = []
    for number, steps in enumerate(replicas):
        at = 0
        for gap, length, sequences in steps:
            at += gap
            begin = AT + timedelta(milliseconds=at)
            rows.append(("one", number, begin, length / 1e3, sequences))
            at += length
    schema = {
        "attempt_id": pl.String,
        "replica": pl.Int32,
        "started_at": pl.Datetime("us", "UTC"),
        "seconds": pl.Float64,
        "sequences": pl.Int32,
    }
    return pl.DataFrame(rows, schema, orient="row").sort("started_at", maintain_order=True)


@settings(deadline=None)
@given(st.lists(ONE, min_size=2, max_size=4))
def test_lanes_hold_all_work_and_tails_hold_none(replicas) -> None:
    found = lanes_of(steps_of(*replicas))
    assert found is not None
    assert found.running.shape == (len(replicas), BINS)
    assert found.replicas == tuple(range(len(replicas)))
    work = found.running @ np.diff(found.edges)
    expected = [sum(length * count for _, length, count in steps) / 1e3 for steps in replicas]
    assert work == pytest.approx(expected, abs=1e-4)
    for lane, begin, end in found.tails:
        assert begin < end <= found.edges[-1] + 1e-5
        after = found.edges[:-1] > begin + 1e-5
        assert found.running[lane, after] == pytest.approx(0.0, abs=1e-3)


def test_one_replica_has_no_lanes() -> None:
    assert lanes_of(steps_of([(0, 100, 3)])) is None
    assert lanes_of(steps_of()) is None


def test_many_lanes_stay_a_small_plot() -> None:
    rng = np.random.default_rng(0)
    steps = [[(0, 10, int(n)) for n in rng.integers(0, 99, 300)] for _ in range(40)]
    lanes = lanes_of(steps_of(*steps))
    assert lanes is not None
    figure = night_plots.lanes(lanes)
    assert len(figure.svg) < 300_000
    assert "The first 16 of 40." in figure.caption
    assert "replica 15" in figure.svg
    assert "replica 16" not in figure.svg
