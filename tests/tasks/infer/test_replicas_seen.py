"""What is told of replicas: while they compute, in results, report, inspection and cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from pyiceberg.catalog import load_catalog

from flows import cli
from flows.views.status import rows_of
from tasks.infer import replicas_now
from tasks.infer.backends.engine_process import Here
from tasks.infer.infer import infer
from tasks.operations.status import date_status
from tasks.plan.plan import plan
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tasks.report.inspect_run import inspect_run
from tasks.store.contract import plain_path
from tasks.store.open import open_store
from tests.support import scripted_backend
from tests.support.demo_nights import DAY, batch_line, night_request, opened, write_lines

COUNT = 40
PRICE = 2.0
PATIENCE_S = 30.0


def status(root: Path) -> dict:
    place = str(root / "store")
    return date_status(open_store(place), "t", DAY, store_name=place, lease_s=30.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A published night of two scripted replicas, and what status said in the middle of it."""
    root = tmp_path_factory.mktemp("night")
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(COUNT)]
    write_lines(root / "logs", "a.jsonl", lines)
    catalog = f"sqlite:///{root}/catalog.db"
    request = night_request(
        root, max_sequences=2, report=True, gpu_hour_price=PRICE, catalog=catalog, lease_s=30.0
    )
    seen: list = []

    def look(progress) -> None:
        if progress.answered < COUNT / 2 or seen:
            return
        end = time.monotonic() + PATIENCE_S
        # Nothing is taken in meanwhile, and signs of life go on.
        while (found := status(root)).get("replicas_now") != one.log.told["replicas"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        seen.append((progress, found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas_now, "PERIOD_S", 0.0)
        patch.setattr(replicas_now, "SHARE", float("inf"))
        scripted_backend.use(patch, root / "script", step_s=0.01)
        with opened(request, root / "scratch") as one:
            profile(one)
            plan(one)
            results = infer(one, look, places=[Here("cpu")] * 2)
            told_at_the_end = dict(one.log.told)
            published = publish(one)
            one.log.end_attempt("completed", 0)
            steps = pl.DataFrame(pl.from_arrow(one.read_table("steps")))
    return SimpleNamespace(
        root=root,
        seen=seen[0],
        told_at_the_end=told_at_the_end,
        results=results,
        published=published,
        steps=steps,
        catalog=catalog,
        run_dir=plain_path(published["run_dir"]),
    )


def test_status_of_a_night_under_way_tells_what_each_replica_has_left(night) -> None:
    progress, found = night.seen
    assert (found["status"], found["step"]) == ("running", "infer")
    rows = found["replicas_now"]
    assert [row["replica"] for row in rows] == [0, 1]
    assert sum(row["left"] for row in rows) == progress.requests - progress.answered > 0
    assert {row["phase"] for row in rows} <= {"answering", "compiling", "done"}
    assert "by_replica" not in found
    shown = dict(rows_of(found))
    for row in rows:
        if row["left"] and row["phase"] == "answering":
            assert shown[f"replica {row['replica']}"] == f"computes, {row['left']} left"


def test_results_tell_what_each_replica_did(night) -> None:
    rows, steps = night.results["by_replica"], night.steps
    assert [row["replica"] for row in rows] == [0, 1]
    for row in rows:
        own = steps.filter(pl.col("replica") == row["replica"])
        assert row["steps"] == own.height > 0
        assert row["decode_tokens"] == own["decode_tokens"].sum()
        assert row["engine_seconds"] == pytest.approx(own["seconds"].sum())
        assert row["gpu_seconds_held"] >= row["gpu_seconds_busy"] > 0
    ends = steps.group_by("replica").agg(
        (pl.col("started_at").dt.timestamp("us") / 1e6 + pl.col("seconds")).max().alias("end")
    )
    assert min(row["tail_seconds"] for row in rows) == 0.0
    assert max(row["tail_seconds"] for row in rows) == ends["end"].max() - ends["end"].min()


def test_the_cost_counts_every_replica(night) -> None:
    held = sum(row["gpu_seconds_held"] for row in night.results["by_replica"])
    assert night.results["gpu_seconds_held"] == pytest.approx(held)
    # Each lived for nearly all of the step.
    assert held > 1.2 * max(row["gpu_seconds_held"] for row in night.results["by_replica"])
    summary = json.loads((Path(plain_path(night.published["folder"])) / "summary.json").read_text())
    assert summary["by_replica"] == night.results["by_replica"]
    assert summary["cost"] == pytest.approx(held / 3600 * PRICE)
    shared = sum(row["gpu_seconds"] for row in summary["cost_by_workload"])
    assert shared == pytest.approx(held)
    catalog = load_catalog("nightblend", type="sql", uri=night.catalog)
    (row,) = catalog.load_table("nightblend.batch_runs").scan().to_arrow().to_pylist()
    assert row["gpu_seconds_held"] == pytest.approx(held)
    assert row["cost"] == pytest.approx(held / 3600 * PRICE)


def test_status_and_inspection_of_the_finished_run(night, capsys) -> None:
    found = status(night.root)
    assert found["status"] == "done"
    assert "replicas_now" not in found
    assert night.told_at_the_end == {}
    assert found["by_replica"] == night.results["by_replica"]
    shown = dict(rows_of(found))
    for row in night.results["by_replica"]:
        text = shown[f"replica {row['replica']}"]
        assert text.startswith(f"{row['steps']:,} steps, ")
        assert f"{row['gpu_seconds_held']:,.1f} device seconds held" in text
    assert inspect_run(night.run_dir)["by_replica"] == night.results["by_replica"]
    assert cli.main(["inspect", night.run_dir]) == 0
    assert "Replicas" in capsys.readouterr().out


def test_the_report_has_a_lane_for_each(night) -> None:
    folder = Path(plain_path(night.published["folder"]))
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    section = text.partition("## Replicas")[2].partition("\n## ")[0]
    assert "2 replicas shared the requests" in section
    for row in night.results["by_replica"]:
        assert f"| {row['replica']} | {row['steps']:,} | " in section
        assert f"{row['gpu_seconds_held'] / 3600 * PRICE:,.4f} USD" in section
        assert f"replica {row['replica']}</text>" in page
    assert "Requests in a step, by replica" in page


def test_one_replica_is_told_as_before(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(replicas_now, "PERIOD_S", 0.0)
    scripted_backend.use(monkeypatch, tmp_path / "script")
    write_lines(tmp_path / "logs", "a.jsonl", [batch_line("a", "Hello."), batch_line("b", "Hello you.")])
    told = []
    with opened(night_request(tmp_path, report=True), tmp_path / "scratch") as one:
        profile(one)
        plan(one)
        results = infer(one, lambda _: told.append(dict(one.log.told)))
        published = publish(one)
        one.log.end_attempt("completed", 0)
    assert len(results["by_replica"]) == 1
    assert told
    assert not any(told)
    found = status(tmp_path)
    assert "by_replica" not in found
    assert not any(name.startswith("replica") for name, _ in rows_of(found))
    assert "Replicas" not in (Path(plain_path(published["folder"])) / "report.md").read_text()
