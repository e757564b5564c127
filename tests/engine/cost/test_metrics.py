"""Figures of utilisation: formulas on known steps, bounds, and names that tell them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.metrics import (
    MEASURED,
    METRICS,
    StepSample,
    density,
    idle_tail_seconds,
    kv_occupancy,
    mbu,
    mfu,
    overlap_fraction,
    step_metrics,
    useful_seconds,
)
from engine.cost.profiles import DeviceProfile
from engine.cost.step import NOMINAL, ModelShape, step_cost

DEVICE = DeviceProfile("unit", "nominal", 2.0, 1.0, 4.0, 2.0, overlaps=True)
SHAPE = ModelShape(
    body_parameters=10, head_parameters=5, layers=1, query_size=3, kv_bytes_per_token=7, weight_bytes=30
)
SAMPLE = StepSample(
    step=1,
    started_at=0.0,
    seconds=1.0,
    tokens=4,
    prefill_tokens=3,
    decode_tokens=1,
    samples=2,
    sequences=2,
    running=2,
    kv_tokens_read=9,
    kv_tokens_decode=5,
    attended_tokens=11,
    nano_batches=1,
    available_pages=6,
    hit_tokens=0,
    recomputed_tokens=0,
    evicted_pages=0,
    preemptions=0,
)
times = st.floats(0.0, 1e6, allow_nan=False)


def test_a_step_by_hand() -> None:
    found = step_metrics(SAMPLE, SHAPE, step_cost(SHAPE, DEVICE), pages=8)
    flops = 2 * 4 * 10 + 2 * 2 * 5 + 4 * 11 * 3 * 1
    moved = (9 + 4) * 7 + 30
    # Keys that the decoding sequence reads are memory work: 5 of the 11 and of the 9.
    compute, memory = (flops - 4 * 5 * 3 * 1) / 2.0, (5 + 4) * 7 + 30
    assert found == {
        "model_flops": flops,
        "model_bytes": moved,
        "modelled_compute_seconds": compute,
        "modelled_memory_seconds": memory,
        "modelled_seconds": max(compute, memory),
        "kv_occupancy": 0.25,
    }
    assert set(found) < set(METRICS)


def test_a_step_that_is_cut_reads_the_weights_once_more() -> None:
    whole, halves = (
        step_metrics(replace(SAMPLE, nano_batches=n), SHAPE, step_cost(SHAPE, DEVICE), pages=8)
        for n in (1, 2)
    )
    assert halves["model_bytes"] - whole["model_bytes"] == SHAPE.weight_bytes
    assert halves["modelled_memory_seconds"] - whole["modelled_memory_seconds"] == pytest.approx(30.0)
    assert halves["modelled_compute_seconds"] == whole["modelled_compute_seconds"]


def test_a_step_that_only_waits_does_no_work() -> None:
    waiting = replace(SAMPLE, tokens=0, samples=0)
    found = step_metrics(waiting, SHAPE, step_cost(SHAPE, DEVICE), pages=8)
    assert [found[name] for name in ("model_flops", "model_bytes", "modelled_seconds")] == [0.0, 0.0, 0.0]


def test_shares_of_the_peaks() -> None:
    assert mfu(DEVICE, 20.0, 10.0) == 0.5
    assert mbu(DEVICE, 6.0, 10.0) == pytest.approx(0.3)
    # Nothing is made up where the peak is unknown or no time passed.
    assert mfu(NOMINAL["cpu"], 20.0, 10.0) is None
    assert mbu(NOMINAL["cpu"], 6.0, 10.0) is None
    assert mfu(DEVICE, 20.0, 0.0) is None
    assert density(1.0, 0.0) is None
    assert kv_occupancy(0, 0) == 0.0


def test_overlap() -> None:
    assert overlap_fraction(3.0, 1.0, 4.0) == 0.0
    assert overlap_fraction(3.0, 1.0, 3.0) == 1.0
    assert overlap_fraction(3.0, 1.0, 3.5) == 0.5
    assert overlap_fraction(3.0, 0.0, 3.0) is None


@given(times, times, times)
def test_overlap_is_a_share_and_falls_with_time(compute: float, memory: float, seconds: float) -> None:
    found, later = (overlap_fraction(compute, memory, s) for s in (seconds, seconds + 1.0))
    if found is not None:
        assert 0.0 <= found <= 1.0
        assert later is not None
        assert later <= found


def test_the_idle_tail() -> None:
    seconds = np.array([1.0, 1.0, 1.0, 1.0])
    work = np.array([0.5, 0.5, 0.25, 0.0])
    prefill = np.array([5, 5, 0, 0])
    # The first two do their work at 2 s for 1 s of it: the tail's 0.25 s would take 0.5 s of its 2 s.
    assert idle_tail_seconds(seconds, prefill, work) == 1.5
    assert idle_tail_seconds(seconds, np.array([5, 5, 0, 1]), work) == 0.0
    assert idle_tail_seconds(seconds, np.zeros(4, np.int64), work) == 0.0
    assert idle_tail_seconds(np.zeros(0), np.zeros(0, np.int64), np.zeros(0)) == 0.0
    # A tail that keeps the pace is not idle, however long it is.
    assert idle_tail_seconds(seconds, prefill, np.full(4, 0.5)) == 0.0


@given(st.lists(st.tuples(times, st.integers(0, 3), times), max_size=12))
def test_the_idle_tail_is_part_of_the_run(steps) -> None:
    seconds, prefill, work = (np.array(x) for x in zip(*steps, strict=True)) if steps else [np.zeros(0)] * 3
    assert 0.0 <= idle_tail_seconds(seconds, prefill, work) <= seconds.sum() * (1 + 1e-9)


def test_useful_seconds_leave_the_weights_out() -> None:
    flops, moved = np.array([8.0, 0.0]), np.array([31.0, 130.0])
    assert useful_seconds(SHAPE, DEVICE, flops, moved).tolist() == [4.0, 100.0]


def test_a_name_tells_where_a_figure_comes_from() -> None:
    for name, metric in METRICS.items():
        assert metric.meaning
        by_device = metric.meaning.endswith("by the device")
        assert by_device == name.startswith("measured_") == (name in MEASURED)
        if name.startswith("modelled_"):
            assert "by the cost model" in metric.meaning
