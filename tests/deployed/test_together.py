"""A backfill, a night and an on-demand run at once: one computes at a time, the backfill makes way."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from tasks.runlog.parts import read_table
from tests.deployed.site_of_tests import JOB, counts, long_counts, today

COUNT = 40


def computing(log, folder) -> list[tuple]:
    """When each attempt of a run computed: from its first answer's start to its last one's end."""
    folder.mkdir()
    rows = read_table(log, "outputs", folder, ["attempt_id", "started_at", "finished_at"]).to_pylist()
    spans = {}
    for row in rows:
        spans.setdefault(row["attempt_id"], []).append((row["started_at"], row["finished_at"]))
    return [(min(s for s, _ in found), max(e for _, e in found)) for found in spans.values()]


def test_three_at_once_compute_one_after_the_other(site, tmp_path):
    done, second, third = (today() - timedelta(days=back) for back in (82, 81, 80))
    night, asked = today() - timedelta(days=70), today() - timedelta(days=71)
    site.write_day(done, counts(4))
    for day in (second, third):
        site.write_day(day, long_counts(COUNT))
    for day in (night, asked):
        site.write_day(day, counts(8))
    first = site.ended(site.start("nightly/dates", run_date=done.isoformat())["id"])
    assert first["state_name"] == "Completed", site.logs(first["id"])

    backfill = site.start("backfill/backfill", first=done.isoformat(), last=third.isoformat())
    # Halted, so that the others certainly come while it computes.
    log, engine = site.halted_in_the_middle(JOB, second, parts=1)
    nightly = site.start("nightly/nightly", run_date=night.isoformat())
    on_demand = site.start("on-demand/on-demand", run_date=asked.isoformat())
    site.wait(lambda: log.refresh().stop_requested)
    engine.resume()
    for run in (nightly, on_demand, backfill):
        ended = site.ended(run["id"])
        assert ended["state_name"] == "Completed", site.logs(run["id"])

    logs = {day: site.run_logs(JOB, day)[0] for day in (done, second, third, night, asked)}
    assert len(logs[done].state.attempts) == 1
    # The date under way stopped for the night, and went on afterwards.
    assert logs[second].state.endings[logs[second].state.attempts[0].id].status == "stopped"
    assert all(log.state.finished for log in logs.values())
    for day in (done, second, third, night):
        assert site.answers(JOB, day)
    spans = sorted(span for day, log in logs.items() for span in computing(log, tmp_path / str(day)))
    assert len(spans) >= 6
    assert all(before[1] <= after[0] for before, after in pairwise(spans))

    summary = site.artifacts(backfill["id"])
    text = " ".join(str(artifact["data"]) for artifact in summary.values())
    for day in (done, second, third):
        assert day.isoformat() in text
