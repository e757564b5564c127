"""A pilot: which requests are tried, what is learnt of lengths, the whole night from them, the page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from tasks.base.errors import ConfigurationError
from tasks.pilot.lengths import LIMITS, LOGS, SAMPLE, learn_lengths
from tasks.pilot.pilot import LEAST, PilotSettings, pilot, stratified
from tasks.pilot.whole import Sequences, around, levels, rounds_error
from tasks.pilot.words import GO_ON, NOT_SURE, STAY, decide
from tasks.plan.work import load_work
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, opened, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = float("nan")


def learnt(measured: list, logged: list, limit: list, group: list | None = None):
    numbers = (np.array(one, np.float64) for one in (measured, logged))
    return learn_lengths(*numbers, np.array(limit, np.int64), np.array(group or [0] * len(limit), np.int64))


def test_logged_lengths_are_scaled_by_what_the_sample_shows() -> None:
    found = learnt([20, 40, UNKNOWN, UNKNOWN], [10, 20, 30, 90], [100] * 4)
    assert found.output.tolist() == [20, 40, 60, 100]
    assert found.groups == [(0, 4, 2, 37.5, 30.0, LOGS)]
    assert found.error == 0.0


def test_answers_that_run_to_their_limits_are_as_long_as_the_limits() -> None:
    found = learnt([8, 30, UNKNOWN], [UNKNOWN] * 3, [8, 30, 21])
    assert found.output.tolist() == [8, 30, 21]
    assert found.groups[0][-1] == LIMITS


def test_other_lengths_are_drawn_from_the_sample_and_are_the_less_sure_the_more_they_scatter() -> None:
    known = [3, 50, 7, 90, 20, 61]
    found = learnt([*known, *[UNKNOWN] * 400], [UNKNOWN] * 406, [*[100, 90] * 3, *[100] * 400])
    assert set(found.output.tolist()) <= set(known)
    assert found.groups[0][-1] == SAMPLE
    alike = learnt([38, 39, 38, 40, 38, 39, *[UNKNOWN] * 400], [UNKNOWN] * 406, [*[99, 40] * 3, *[99] * 400])
    assert found.error > 5 * alike.error > 0


def test_a_workload_nobody_has_tried_takes_half_of_its_limit() -> None:
    found = learnt([5, UNKNOWN], [UNKNOWN, UNKNOWN], [10, 40], [1, 2])
    assert found.output.tolist() == [5, 20]
    assert found.error > 1.0


@given(st.lists(st.floats(0.5, 50.0), min_size=2, max_size=6), st.floats(1.01, 3.0))
def test_times_that_scatter_more_are_less_sure(times: list[float], wider: float) -> None:
    logs = np.log(times)
    apart = np.exp(logs.mean() + wider * (logs - logs.mean())).tolist()
    assert rounds_error([apart, times]) >= rounds_error([times, times]) - 1e-9
    assert rounds_error([times[:1], times[:1]]) == 0.1
    bounds = around(10.0, rounds_error([times, times]))
    assert bounds.low < 10.0 < bounds.high


def test_orders_share_the_level_of_their_device_unless_they_differ_beyond_chance() -> None:
    # Both took 1.2 times as long as simulated, by rounds that scatter more than the orders differ.
    noisy = levels([[10.0, 14.0, 12.0], [11.0, 15.0, 13.0]], [10.0, 10.5])
    assert noisy[0] == pytest.approx(noisy[1])
    assert noisy[0] == pytest.approx((12.0 / 10.0 * 13.0 / 10.5) ** 0.5)
    steady = levels([[10.0, 10.01, 9.99], [15.0, 15.01, 14.99]], [10.0, 10.0])
    assert steady == pytest.approx([1.0, 1.5], rel=1e-4)
    assert levels([[10.0], [15.0]], [10.0, 10.0]) == pytest.approx([1.0, 1.5])


@given(
    st.lists(st.lists(st.floats(0.5, 50.0), min_size=3, max_size=3), min_size=2, max_size=3),
    st.floats(0.1, 10.0),
)
def test_a_level_lies_between_that_of_all_orders_and_its_own(rounds: list[list[float]], scale: float) -> None:
    simulated = [1.0 + k for k in range(len(rounds))]
    own = np.array([np.mean(one) / other for one, other in zip(rounds, simulated, strict=True)])
    common = np.exp(np.log(own).mean())
    found = np.array(levels(rounds, simulated))
    assert (found >= np.minimum(own, common) * (1 - 1e-9)).all()
    assert (found <= np.maximum(own, common) * (1 + 1e-9)).all()
    slower = levels([[scale * second for second in one] for one in rounds], simulated)
    assert slower == pytest.approx((scale * found).tolist())


def deciding(low: float, central: float, high: float) -> dict:
    seconds = {"low": 1.0, "central": 2.0, "high": 3.0}
    return decide(
        {
            "saving": {"low": low, "central": central, "high": high},
            "orders": [{"seconds": seconds}, {"seconds": seconds}],
        }
    )


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [((0.1, 0.2, 0.3), GO_ON), ((-0.1, 0.2, 0.3), NOT_SURE), ((-0.2, -0.1, 0.01), STAY)],
)
def test_the_decision_goes_by_the_bounds(bounds: tuple, wanted: str) -> None:
    found = deciding(*bounds)
    assert found["decision"] == wanted
    assert "\n" not in found["reason"]


def lines() -> list[str]:
    """Two workloads of three tenants, one of which is rare, with a prefix for each eight of a tenant."""
    made = []
    for i in range(240):
        told = {"workload": "ask", "tenant": f"t{i % 3}"}
        text = f"Tenant {i % 3}, topic {i // 24}: " + "the same words again and again " * 6 + f"now {i}"
        made.append(batch_line(f"a{i}", text, max_tokens=8, metadata=told))
    made += [
        batch_line(f"r{i}", f"Count {i}.", max_tokens=40, metadata={"workload": "rare"}) for i in range(9)
    ]
    return made


@pytest.fixture
def asked(tmp_path: Path):
    write_lines(tmp_path / "logs", "a.jsonl", lines())
    return night_request(tmp_path)


def test_the_sample_has_all_workloads_and_tenants_and_keeps_prefixes_together(tmp_path: Path, asked) -> None:
    with opened(asked, tmp_path / "scratch") as night:
        work = load_work(night)
        sample = stratified(work, 80)
        assert stratified(work, 0) is work
        rows = [sample.rows[i] for members in sample.members.values() for i in members]
        counts = Counter((row["workload"], row["tenant"]) for row in rows)
        assert counts["rare", None] >= LEAST
        assert all(16 <= counts["ask", tenant] <= 40 for tenant in ("t0", "t1", "t2")), counts
        # Eight requests share a prefix of their tenant: most of what is sampled has its neighbours with it.
        whole, part = Sequences.of(night, work), Sequences.of(night, sample)
        output = np.full(len(whole.names), 4, np.int32), np.full(len(part.names), 4, np.int32)
        rates = [
            one.simulated(night, "dfs", length, night.settings.planned_on).hit_rate
            for one, length in zip((whole, part), output, strict=True)
        ]
        assert rates[1] > 0.85 * rates[0]


def test_both_orders_take_turns_and_nothing_is_published(
    tmp_path: Path, asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    heard = []
    found = pilot(
        asked,
        PilotSettings(sample=60, rounds=2, price=3.6),
        tmp_path / "scratch",
        on_run=lambda number, order: heard.append((number, order)),
    )
    assert heard == [(0, "fcfs"), (0, "blend"), (1, "blend"), (1, "fcfs")]
    assert found["requests"] == 249
    assert 50 <= found["sampled"] <= 75
    assert sum(row["requests"] for row in found["strata"]) == 249
    assert [row["order"] for row in found["orders"]] == ["fcfs", "blend"]
    for row in found["orders"]:
        bounds = row["seconds"]
        assert bounds["low"] < bounds["central"] < bounds["high"]
        assert bounds["central"] == pytest.approx(
            row["simulated_seconds"] * row["factor"] + row["load_seconds"]
        )
        assert row["cost"] == pytest.approx(bounds["central"] / 3600 * 3.6)
    assert found["equal_answers"] == 1.0
    # The logs have no lengths, so an estimate has nothing to go by.
    assert found["estimate"] is None
    assert "has the length of a logged answer" in found["no_estimate"]
    assert not list((tmp_path / "store").rglob("published"))


def test_the_blend_is_not_todays_order(tmp_path: Path, asked) -> None:
    with pytest.raises(ConfigurationError, match="--today: is the blend itself"):
        pilot(replace(asked), PilotSettings(today="blend"), tmp_path / "scratch")


def test_the_command_prints_a_decision_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    logged = [
        {"prompt": f"Say {i}", "output_tokens": 4 + i % 3, "tenant": "a&b", "workload": "w"}
        for i in range(120)
    ]
    write_lines(tmp_path / "logs", "a.jsonl", [json.dumps(row) for row in logged])
    page = tmp_path / "page.html"
    typed = ["pilot", "--source", str(tmp_path / "logs"), "--model", str(DEMO_MODEL), "--out", str(page)]
    typed += ["--run-date", "2026-11-22", "--rounds", "1", "--sample", "30"]
    typed += ["--format", "generic", "--columns", "prompt=prompt", "--columns", "output_tokens=output_tokens"]
    typed += ["--columns", "tenant=tenant", "--columns", "workload=workload"]
    assert main([*typed, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    assert found["estimate"]["seconds"].keys() == {"fcfs", "blend"}
    assert found["lengths"][0]["logged_mean"] == pytest.approx(5.0)
    assert main(typed) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(found["decision"].capitalize()[:3]) or "The whole night would take" in shown
    assert "Nothing was published." in shown
    html = page.read_text()
    assert "a&amp;b" in html
    assert "as estimated" in html
    for wrong, said in (
        (["--today", "best"], "--today: 'best' is unknown"),
        (["--store", "x"], "--job: is missing"),
        (["--out", str(tmp_path / "no" / "page.html")], "--out: there is no folder"),
    ):
        assert main([*typed, *wrong]) == 2
        assert said in capsys.readouterr().err
