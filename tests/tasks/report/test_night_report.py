"""The report of a night: of a real one, of made-up ones, and in a browser where there is one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.cost.metrics import MEASURED
from flows import cli
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tasks.report import files, night_report
from tasks.report.document import to_html, to_markdown
from tasks.report.night_data import LengthMap, NightData
from tasks.report.night_report import explain, night_document
from tasks.report.orders import Order, Orders
from tasks.store.contract import plain_path
from tests.servers import browser
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.html_pages import Seen

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "zanzibar"
SECTIONS = (
    "In short",
    "Over the run",
    "Why this order",
    "Requests",
    "Prefix sharing",
    "Planned and actual",
    "Cost",
    "What the figures mean",
)


def order(policy: str, seconds: float, compute: float = 60.0, memory: float = 50.0) -> Order:
    hidden = compute + memory - seconds
    return Order(policy, seconds, compute, memory, hidden, 0.4, 12, 900, 5000.0)


def compared(*found: Order, of: int = 100, overlaps: bool = True) -> Orders:
    return Orders(tuple(sorted(found, key=lambda o: o.seconds)), 100, of, 70.0, "compute", overlaps)


def made_up(bins: int = 160, workloads: int = 3, name: str = "tell") -> NightData:
    rng = np.random.default_rng(0)
    at = [AT + timedelta(seconds=10 * i) for i in range(bins)]
    timeline = pl.DataFrame(
        {
            "started_at": at,
            "seconds": [10.0] * bins,
            "prefill_tokens": rng.integers(0, 20_000, bins),
            "decode_tokens": rng.integers(0, 5000, bins),
            "sequences": rng.uniform(0, 500, bins),
            "modelled_compute_seconds": rng.uniform(0, 10, bins),
            "modelled_memory_seconds": rng.uniform(0, 10, bins),
            "kv_occupancy": rng.uniform(0, 1, bins),
        }
    )
    measured = pl.DataFrame({"started_at": at, **{m: rng.uniform(0, 1, bins) for m in MEASURED}})
    names = [f"{name} {i}" for i in range(workloads)]
    edges = np.geomspace(1, 10_000, 49)
    infer = {
        "device": {"name": "h100"},
        "engine_seconds": 1600.0,
        "hit_rate": 0.41,
        "hit_rate_optimum": 0.43,
        "mfu": 0.5,
        "mbu": 0.6,
        "idle_tail_seconds": 3.0,
        "gpu_seconds_held": 1700.0,
        "gpu_seconds_busy": 1600.0,
        "input_tokens": 10_000,
        "output_tokens": 5000,
    }
    rows = [
        {
            "name": n,
            "requests": 9,
            "share": 1 / workloads,
            "gpu_seconds": 5.0,
            "cost": 0.2,
            "cost_per_1000_requests": 1.0,
        }
        for n in names
    ]
    price = {"gpu_hour_price": 2.5, "currency": "EUR", "cost": 1.18, "cost_per_1000_requests": 0.5}
    return NightData(
        job="triage",
        run_date="2026-01-01",
        run_key="0123456789abcdef",
        status="Completed",
        policy="blend",
        summary={"requests": 100, "errors": 1, **price, "cost_by_workload": rows, "cost_by_tenant": rows},
        steps={"infer": infer},
        timeline=timeline,
        measured=measured,
        stretch_s=10,
        densities=[
            {"workload": n, "requests": 9, "p10": 0.1 * (i + 1), "p50": 1.0 * (i + 1), "p90": 4.0 * (i + 1)}
            for i, n in enumerate(names[:12])
        ],
        length_map=LengthMap(rng.integers(0, 50, (48, 48)).astype(float), edges, edges),
        estimates=[
            {"source": "workload", "requests": 9, "expected": 9.0, "actual": 8.0}
            | {"mean_error": 1.0, "mean_absolute_error": 2.0}
        ],
        planned={
            "engine_seconds": {"planned": 80.0, "actual": 160.0},
            "steps": {"planned": None, "actual": 3},
        },
        orders=compared(order("blend", 80.0), order("dfs", 90.0, memory=45.0), order("random", 110.0, 75.0)),
    )


def test_every_section_in_both_forms() -> None:
    document = night_document(made_up())
    page, text = to_html(document), to_markdown(document)
    assert [section.title for section in document.sections] == list(SECTIONS)
    Seen(page)
    assert page.count("<svg") == 8
    for part in ("1.18 EUR", "at 2.5 EUR per device hour held", "tensor cores active", "(used)"):
        assert part in page, part
    for part in ("| blend | 80 s | +0.0%", "1.18 EUR", "| engine seconds | 80 | 160 |"):
        assert part in text, part


def test_the_choice_of_auto_is_told_with_what_the_others_would_have_taken() -> None:
    night = made_up()
    said = to_markdown(night_document(night))
    assert "Chosen by auto" not in said
    trials = [
        {"text": "dfs, steps of up to 512 tokens", "seconds": 80.0, "requests": 100},
        {"text": "blend, steps of up to 512 tokens", "seconds": 90.0, "requests": 40},
    ]
    choice = {"text": trials[0]["text"], "why": "The fastest of 2 candidates.", "trials": trials}
    steps = {**night.steps, "plan": {"choice": choice}}
    text = to_markdown(night_document(replace(night, steps=steps)))
    assert "Chosen by auto: dfs, steps of up to 512 tokens. The fastest of 2 candidates." in text
    assert "| blend, steps of up to 512 tokens | 90 s | +12.5% | 40 |" in text
    # Where nothing was simulated afterwards, and nothing was searched before.
    bare = {"plan": {"choice": {**choice, "trials": []}}}
    assert "Chosen by auto" in to_markdown(night_document(replace(night, steps=bare, orders=None)))


def test_a_page_is_small_however_large_the_night() -> None:
    night = made_up(workloads=5000)
    page = to_html(night_document(night))
    assert len(page) < 500_000
    assert "4,980 more are in summary.json" in page


def test_names_of_workloads_are_no_markup() -> None:
    page = to_html(night_document(made_up(name="<b>$x^2$ & 'tell'")))
    Seen(page)
    assert "<b>" not in page
    assert "&lt;b&gt;$x^2$" in page


def test_a_run_without_figures_has_a_report() -> None:
    empty = made_up(bins=0)
    night = replace(
        empty, summary={}, steps={}, densities=[], length_map=None, estimates=[], planned={}, orders=None
    )
    document = night_document(night)
    assert [section.title for section in document.sections] == ["In short", "What the figures mean"]
    Seen(to_html(document))


def test_why_this_order() -> None:
    blend, dfs = order("blend", 80.0), order("dfs", 90.0, memory=40.0)
    text = " ".join(explain(compared(blend, dfs), blend))
    assert "All 100 requests were simulated" in text
    assert "No order is faster than blend" in text
    assert "dfs would have taken 12.5% more" in text
    assert "has 20 s more of compute and memory time pass side by side" in text
    assert "bound by compute" in text
    # Counter-evidence is told as plainly.
    text = " ".join(explain(compared(blend, dfs, of=1000, overlaps=False), dfs))
    assert "A sample of 100 of 1,000 requests" in text
    assert "blend would have been faster than dfs, by 11.1%" in text
    assert "blending them gains nothing here" in text
    same = order("fcfs", 80.1)
    assert "no difference worth naming" in " ".join(explain(compared(blend, same), blend))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real night, published with its report; its results."""
    root = tmp_path_factory.mktemp("night")
    lines = [
        batch_line(
            f"c{i}", f"Say {SECRET} and count to {i}.", max_tokens=4 + i, metadata={"tenant": f"t{i % 2}"}
        )
        for i in range(6)
    ]
    # Equal requests share an answer and its cost.
    lines.append(
        batch_line("again", f"Say {SECRET} and count to 0.", max_tokens=4, metadata={"tenant": "t1"})
    )
    write_lines(root / "logs", "day.jsonl", lines)
    with opened(night_request(root, report=True, gpu_hour_price=2.0), root / "scratch") as night:
        profile(night)
        answer(night)
        return publish(night)


def test_the_report_of_a_real_night(run, capsys, tmp_path) -> None:
    folder = Path(plain_path(run["folder"]))
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    Seen(page)
    assert run["report_file"].endswith("/report.html")
    for title in SECTIONS:
        # On a fast machine a night this short may have no course to plot.
        if title != "Over the run":
            assert f"<h2>{title}</h2>" in page
            assert f"## {title}" in text
    assert SECRET not in page + text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gpu_seconds_held"] >= summary["gpu_seconds_busy"] > 0
    assert summary["cost"] == pytest.approx(summary["gpu_seconds_held"] / 1800)
    assert 0 < summary["mfu"] < 1
    assert 0 < summary["kv_occupancy"] <= 1
    assert summary["measured_energy_joules"] is None
    tenants = {row["name"]: row for row in summary["cost_by_tenant"]}
    assert sum(row["requests"] for row in tenants.values()) == 7
    assert sum(row["share"] for row in tenants.values()) == pytest.approx(1.0)
    run_dir = plain_path(run["run_dir"])
    assert files.report_markdown(run_dir) == text
    assert cli.main(["report", run_dir, "--out", str(tmp_path / "page.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report_file": str(tmp_path / "page.html"), "markdown_file": str(tmp_path / "page.md")}
    # The same data give the same page.
    assert (tmp_path / "page.html").read_text() == page


def test_wrong_places(tmp_path, capsys) -> None:
    assert cli.main(["report", str(tmp_path / "nothing"), "--out", str(tmp_path / "r.html")]) == 2
    assert "no run log" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_report_that_fails_keeps_no_night_from_being_published(tmp_path, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(night_report, "night_document", broken)
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "Hello.", max_tokens=2)])
    with opened(night_request(tmp_path, report=True), tmp_path / "scratch") as night:
        profile(night)
        answer(night)
        results = publish(night)
    assert results["published"]
    assert results["report_file"] is None
    assert "no report was made (ValueError)" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.skipif(browser.program() is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1100, 500])
def test_in_a_browser(width, tmp_path) -> None:
    found = browser.measure(to_html(night_document(made_up(workloads=12))), tmp_path, width)
    assert found["loaded"] == []
    assert len(found["plots"]) == 8
    for left, wide, high in found["plots"]:
        assert left >= 0
        assert min(wide, high) > 40
    assert found["overflow"] <= 0
    assert found["empty"] == 0
