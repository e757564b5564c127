"""What each replica did: nothing is lost or counted twice, however attempts and replicas are mixed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base.replicas import by_replica, spans

AT = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS = ("prefill_tokens", "decode_tokens", "hit_tokens", "recomputed_tokens")
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "attempt_id": st.sampled_from(("one", "two", "three")),
            "replica": st.sampled_from((None, 0, 1, 2)),
            "started_at": st.integers(0, 10**8).map(lambda us: AT + timedelta(microseconds=us)),
            "seconds": st.floats(0.0, 5.0),
            **dict.fromkeys(COUNTS, st.integers(0, 1000)),
        }
    ),
    max_size=30,
)
HELD = st.dictionaries(st.integers(0, 3), st.floats(0.0, 100.0))


def table(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        schema={
            "attempt_id": pl.String,
            "replica": pl.Int32,
            "started_at": pl.Datetime("us", "UTC"),
            "seconds": pl.Float64,
            **dict.fromkeys(COUNTS, pl.Int64),
        },
    )


@settings(deadline=None)
@given(STEPS, HELD, st.integers(1, 4))
def test_figures_add_up_to_those_of_the_run(rows, held, devices) -> None:
    steps = table(rows)
    found = by_replica(steps, devices, held, "two")
    assert [row["replica"] for row in found] == sorted({*(row["replica"] or 0 for row in rows), *held})
    assert sum(row["steps"] for row in found) == len(rows)
    for name in COUNTS:
        assert sum(row[name] for row in found) == sum(row[name] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    assert sum(row["engine_seconds"] for row in found) == pytest.approx(seconds)
    assert sum(row["gpu_seconds_busy"] for row in found) == pytest.approx(devices * seconds)
    over = spans(steps).filter(pl.col("attempt_id") != "two")
    lived = sum(held.values()) + (over["end"] - over["begin"]).sum()
    assert sum(row["gpu_seconds_held"] for row in found) == pytest.approx(devices * lived, abs=1e-4)
    assert all(row["hit_rate"] is None or 0.0 <= row["hit_rate"] <= 1.0 for row in found)


@settings(deadline=None)
@given(STEPS)
def test_a_tail_ends_with_the_slowest_of_the_same_attempt(rows) -> None:
    for _, attempt in spans(table(rows)).group_by("attempt_id"):
        assert attempt["tail_seconds"].min() == 0.0
        assert attempt["tail_seconds"].max() == attempt["end"].max() - attempt["end"].min()


def test_more_tokens_than_32_bits_hold() -> None:
    row = {"attempt_id": "one", "replica": 0, "started_at": AT, "seconds": 1.0}
    steps = table([row | dict.fromkeys(COUNTS, 2**31 - 1)] * 2).cast(dict.fromkeys(COUNTS, pl.Int32))
    (found,) = by_replica(steps, 1)
    assert found["prefill_tokens"] == 2 * (2**31 - 1)


def test_an_example() -> None:
    nothing = dict.fromkeys(COUNTS, 0)

    def step(attempt: str, replica: int, begin: float, seconds: float, **more: int) -> dict:
        at = AT + timedelta(seconds=begin)
        return {
            **nothing,
            "attempt_id": attempt,
            "replica": replica,
            "started_at": at,
            "seconds": seconds,
            **more,
        }

    steps = table(
        [
            step("one", 0, 0.0, 2.0, prefill_tokens=60, hit_tokens=30),
            step("one", 1, 1.0, 4.0),
            step("one", 0, 2.0, 1.0, prefill_tokens=40, recomputed_tokens=10, decode_tokens=5),
            # The night goes on much later, with the other one ending first.
            step("two", 0, 1000.0, 3.0),
            step("two", 1, 1000.0, 1.0),
        ]
    )
    first, second = by_replica(steps, 2, {0: 10.0, 1: 10.0}, "two")
    assert first["hit_rate"] == 30 / (30 + 100 - 10)
    assert second["hit_rate"] is None
    assert (first["tail_seconds"], second["tail_seconds"]) == pytest.approx((2.0, 2.0))
    assert (first["gpu_seconds_held"], second["gpu_seconds_held"]) == pytest.approx((2 * 13.0, 2 * 14.0))
    assert by_replica(steps, 2)[0]["gpu_seconds_held"] is None
