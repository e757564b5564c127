"""Utilisation over ten seconds: sums, means by time, shares of the peaks, and what nobody knows is null."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from engine.cost.metrics import MEASURED
from engine.cost.profiles import DeviceProfile
from tasks.base.schema import SCHEMAS
from tasks.warehouse.utilization import measured_over_time, over_time, utilization

BEGIN = datetime(2026, 1, 1, 0, 0, 8, tzinfo=UTC)
DEVICE = DeviceProfile("unit", "nominal", 50.0, 10.0, 100.0, 20.0, overlaps=False)
EMPTY = pl.DataFrame(pl.from_arrow(SCHEMAS["device_samples"].empty_table()))
TWELVE = (
    *("prefill_tokens", "decode_tokens", "kv_tokens_read", "hit_tokens", "recomputed_tokens", "retractions"),
    *("evicted_pages", "modelled_seconds"),
)


def steps(**more) -> pl.DataFrame:
    columns = {
        "started_at": [BEGIN + timedelta(seconds=i) for i in range(12)],
        "seconds": [0.5] * 11 + [1.5],
        "sequences": [4] * 11 + [8],
        "free_pages": list(range(20, 8, -1)),
        **dict.fromkeys(TWELVE, [1] * 12),
        "modelled_compute_seconds": [0.4] * 12,
        "modelled_memory_seconds": [0.2] * 12,
        "model_flops": [20.0] * 12,
        "model_bytes": [2.0] * 12,
        "kv_occupancy": [0.25] * 11 + [0.75],
    }
    return pl.DataFrame(columns | more, schema_overrides={"started_at": pl.Datetime("us", "UTC")})


def samples(rows: list[dict]) -> pl.DataFrame:
    schema = EMPTY.schema
    made = [{"device_uuid": "GPU-1", **dict.fromkeys(MEASURED), **row} for row in rows]
    return pl.DataFrame(made, schema=schema)


def test_sums_over_ten_seconds() -> None:
    found = pl.from_arrow(
        utilization(steps(), EMPTY, DEVICE, job="job", run_date=date(2026, 1, 1), run_key="k")
    )
    assert isinstance(found, pl.DataFrame)
    assert found["started_at"].dt.second().to_list() == [0, 10]
    assert found["steps"].to_list() == [2, 10]
    assert found["prefill_tokens"].sum() == 12
    assert found["sequences"].to_list() == [4.0, pytest.approx((4 * 4.5 + 8 * 1.5) / 6)]
    assert found["free_pages"].to_list() == [19, 9]
    # 40 FLOP and 4 bytes in one second, of 100 and 20 a second.
    assert found["mfu"].to_list() == [pytest.approx(0.4), pytest.approx(200 / 6 / 100)]
    assert found["mbu"].to_list() == [pytest.approx(0.2), pytest.approx(20 / 6 / 20)]
    # 0.8 and 0.4 seconds of work in 1 second: half of the smaller passed beside the other.
    assert found["overlap_fraction"].to_list() == [pytest.approx(0.5), 0.0]
    assert found["density"].to_list() == [pytest.approx(2.0)] * 2
    assert found["kv_occupancy"].to_list() == [0.25, pytest.approx((0.25 * 4.5 + 0.75 * 1.5) / 6)]
    assert all(found[name].null_count() == 2 for name in MEASURED)


def test_steps_of_an_earlier_version_have_no_shares() -> None:
    nulls = dict.fromkeys(("model_flops", "model_bytes", "modelled_seconds", "kv_occupancy"), [None] * 12)
    found = over_time(steps(**nulls), DEVICE)
    for name in ("mfu", "mbu", "model_flops", "kv_occupancy"):
        assert found[name].to_list() == [None, None], name
    assert over_time(steps(), None)["mfu"].to_list() == [None, None]


def test_steps_that_took_no_time() -> None:
    found = over_time(steps(seconds=[0.0] * 12), DEVICE)
    assert found["sequences"].to_list() == [4.0, pytest.approx(4.4)]
    assert found["mfu"].to_list() == found["overlap_fraction"].to_list() == [None, None]


def test_the_device_is_a_mean_by_time_and_its_energy_a_sum() -> None:
    rows = [
        {"started_at": BEGIN, "seconds": 1.0, "measured_dram_active": 0.2, "measured_energy_joules": 300.0},
        {"started_at": BEGIN + timedelta(seconds=1), "seconds": 0.5, "measured_dram_active": None},
        {"started_at": BEGIN + timedelta(seconds=3), "seconds": 1.0, "measured_dram_active": 0.2},
        {"started_at": BEGIN + timedelta(seconds=4), "seconds": 3.0, "measured_dram_active": 0.6},
    ]
    found = measured_over_time(samples(rows))
    assert found["measured_dram_active"].to_list() == [pytest.approx(0.2), pytest.approx(0.5)]
    assert found["measured_energy_joules"].to_list() == [300.0, None]
    assert found["measured_tensor_active"].to_list() == [None, None]
    table = utilization(steps(), samples(rows), DEVICE, job="j", run_date=date(2026, 1, 1), run_key="k")
    assert table.column("measured_dram_active").to_pylist() == [pytest.approx(0.2), pytest.approx(0.5)]
