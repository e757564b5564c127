"""Cost of a night: shares add up, a shared answer is shared, and without a price nothing is made up."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.publish.night_cost import cost_shares, night_cost
from tasks.store.folder import FolderStore
from tests.support.nights import open_test_night, write

HELD = {"gpu_seconds_held": 7200.0}


def work(workload: str, tenant: str | None, requests: int, compute: float, memory: float) -> dict:
    return {
        "workload": workload,
        "tenant": tenant,
        "requests": requests,
        "compute_seconds": compute,
        "memory_seconds": memory,
    }


ROWS = [work("pick", "a", 30, 1.0, 0.0), work("pick", None, 10, 0.5, 0.5), work("tell", "a", 60, 1.0, 5.0)]


def cost_of(tmp_path, rows, infer=HELD, requests=100, tokens=50_000, **settings) -> dict:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch", **settings) as night:
        if rows:
            # What an attempt wrote that was killed right after counts no more.
            write(night, "work", [work("old", "old", 1, 9.0, 9.0)])
            write(night, "work", rows)
        return night_cost(night, infer, requests, tokens)


def test_cost_by_run_workload_and_tenant(tmp_path) -> None:
    found = cost_of(tmp_path, ROWS, gpu_hour_price=2.0, currency="EUR")
    assert (found["cost"], found["currency"], found["gpu_hour_price"]) == (4.0, "EUR", 2.0)
    assert found["cost_per_1000_requests"] == 40.0
    assert found["cost_per_million_tokens"] == 80.0
    workloads = {row["name"]: row for row in found["cost_by_workload"]}
    assert list(workloads) == ["tell", "pick"]
    assert workloads["tell"]["share"] == 0.75
    assert workloads["tell"]["cost"] == 3.0
    assert workloads["tell"]["gpu_seconds"] == 5400.0
    assert workloads["pick"]["requests"] == 40
    assert workloads["pick"]["cost_per_1000_requests"] == 25.0
    tenants = {row["name"]: row["cost"] for row in found["cost_by_tenant"]}
    assert tenants == {"a": 3.5, None: 0.5}


def test_without_a_price_there_is_no_cost(tmp_path) -> None:
    found = cost_of(tmp_path, ROWS)
    for name in ("cost", "currency", "gpu_hour_price", "cost_per_1000_requests", "cost_per_million_tokens"):
        assert found[name] is None, name
    for row in (*found["cost_by_workload"], *found["cost_by_tenant"]):
        assert row["cost"] is row["cost_per_1000_requests"] is None
        assert row["gpu_seconds"] == row["share"] * 7200.0


def test_a_price_of_zero_is_a_price(tmp_path) -> None:
    found = cost_of(tmp_path, ROWS, gpu_hour_price=0.0)
    assert (found["cost"], found["cost_per_1000_requests"], found["currency"]) == (0.0, 0.0, "USD")


def test_a_night_that_computed_nothing(tmp_path) -> None:
    found = cost_of(tmp_path, [], infer={}, requests=0, tokens=0, gpu_hour_price=2.0)
    assert found["cost"] is found["cost_per_1000_requests"] is None
    assert found["cost_by_workload"] == found["cost_by_tenant"] == []


amount = st.floats(0.0, 1e6)


@given(
    st.lists(
        st.tuples(st.sampled_from("pq"), st.sampled_from([None, "a", "b"]), amount, amount),
        min_size=1,
        max_size=8,
    )
)
def test_shares_add_up(rows) -> None:
    made = [work(w, t, 1, c, m) for w, t, c, m in rows]
    frame = pl.DataFrame(made, schema_overrides={"tenant": pl.String})
    for by in ("workload", "tenant"):
        found = cost_shares(frame, by, 60.0, 3.0)
        total = sum(row["share"] for row in found)
        assert total == pytest.approx(1.0 if sum(c + m for *_, c, m in rows) > 0 else 0.0)
        assert sum(row["cost"] for row in found) == pytest.approx(3.0 * total)
        assert sum(row["gpu_seconds"] for row in found) == pytest.approx(60.0 * total)
        assert sum(row["requests"] for row in found) == len(rows)
