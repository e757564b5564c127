"""The dbt project on DuckDB: its models say what the published files say. `make test-dbt` installs dbt."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tasks.attempt.ended import ending, record_failed
from tasks.publish.current import roll_back
from tasks.publish.publish import publish
from tasks.store.contract import plain_path
from tasks.store.folder import FolderStore
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import ensure_table, iceberg_schema
from tests.support.finished_nights import fill
from tests.support.nights import DAY, open_test_night, output
from tests.support.paths import ROOT

PROJECT = ROOT / "infra" / "dbt"
DBT = ROOT / ".venv-dbt" / "bin" / "dbt"
A, B = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"

pytestmark = pytest.mark.skipif(not DBT.exists(), reason="dbt is not installed (make test-dbt installs it)")


@pytest.fixture
def place(tmp_path: Path) -> tuple[FolderStore, str]:
    return FolderStore(tmp_path / "store"), f"sqlite:///{tmp_path}/store/_warehouse/catalog.db"


def dbt(folder: Path, catalog: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    made = {
        "NIGHTBLEND_CATALOG": catalog,
        "NIGHTBLEND_DUCKDB": str(folder / "out.duckdb"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "target"),
    }
    command = [str(DBT), *arguments, "--profiles-dir", str(PROJECT), "--project-dir", str(PROJECT)]
    return subprocess.run(
        command, env={**os.environ, **made}, cwd=folder, check=False, capture_output=True, text=True
    )


def query(folder: Path, sql: str) -> list[dict[str, Any]]:
    with duckdb.connect(str(folder / "out.duckdb"), read_only=True) as connection:
        found = connection.execute(sql)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def night(place: tuple[FolderStore, str], scratch: Path, key: str) -> dict[str, Any]:
    store, catalog = place
    with open_test_night(store, scratch / key, key, catalog=catalog) as made:
        fill(made)
        return publish(made)


def test_the_models_agree_with_the_published_files(place: tuple[FolderStore, str], tmp_path: Path) -> None:
    store, catalog = place
    with open_test_night(store, tmp_path / "failed", A) as made:
        made.log.end_attempt("stopped", 4, ending("StoppedError"))
        record_failed(made.log, "job", DAY, A, catalog)
    first = night(place, tmp_path, A)
    night(place, tmp_path, B)
    roll_back(store, "job", DAY, catalog=catalog, lease_s=5.0)
    done = dbt(tmp_path, catalog, "build", "--vars", "{gpu_hour_price: 3.6}")
    assert done.returncode == 0, done.stdout[-3000:]
    (day,) = query(tmp_path, "from daily_cost_and_utilization")
    assert (day["job"], day["run_date"], day["run_key"]) == ("job", DAY, A)
    assert (day["attempts"], day["attempts_without_result"]) == (3, 1)
    for name in ("requests", "outputs", "errors", "quarantined", "input_tokens", "output_tokens", "seconds"):
        assert day[name] == first[name]
    assert day["cost"] == pytest.approx(3.6 * first["seconds"] / 3600)
    assert day["cost_per_million_tokens"] == pytest.approx(1e6 * day["cost"] / 15)
    assert day["modelled_compute_share"] == pytest.approx(0.2)
    assert day["device_hours"] == pytest.approx(first["seconds"] / 3600)
    files = {name: Path(plain_path(first[f"{name}_file"])) for name in ("output", "error")}
    lines = {name: [json.loads(line) for line in path.open()] for name, path in files.items()}
    found = query(tmp_path, "from outputs_with_errors order by request_id")
    assert {row["request_id"]: row["answered"] for row in found} == {
        line["nightblend"]["request_id"]: name == "output" for name, made in lines.items() for line in made
    }
    assert sorted(row["error_code"] for row in found if not row["answered"]) == sorted(
        line["error"]["code"] for line in lines["error"]
    )
    assert all((row["output_tokens"] is not None) == row["answered"] for row in found)
    # Without a price there is no cost.
    assert dbt(tmp_path, catalog, "run", "--select", "daily_cost_and_utilization").returncode == 0
    assert query(tmp_path, "from daily_cost_and_utilization")[0]["cost"] is None


def test_tests_and_freshness_notice_what_is_wrong(place: tuple[FolderStore, str], tmp_path: Path) -> None:
    _, catalog = place
    night(place, tmp_path, A)
    assert dbt(tmp_path, catalog, "source", "freshness").returncode == 0
    # A doubled answer, and no night for three days.
    warehouse = open_warehouse(catalog, str(tmp_path / "store"))
    ensure_table(warehouse, "outputs").append(
        pa.Table.from_pylist([output("a")], schema=iceberg_schema("outputs"))
    )
    runs = ensure_table(warehouse, "batch_runs")
    held = runs.scan().to_arrow()
    late = [row | {"ended_at": datetime.now(UTC) - timedelta(days=3)} for row in held.to_pylist()]
    runs.overwrite(pa.Table.from_pylist(late, schema=iceberg_schema("batch_runs")))
    assert dbt(tmp_path, catalog, "source", "freshness").returncode == 1
    done = dbt(tmp_path, catalog, "test", "--select", "source:nightblend.llm_outputs")
    assert done.returncode == 1
    assert "FAIL 1 source_unique_nightblend_llm_outputs_request_id" in done.stdout
