"""Policy `auto`: what a night chooses, what its job says of it, and that a resumed run keeps it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from engine.choices import AUTO_ORDER, COMBINED
from engine.job.format import read_plan_file
from engine.simulate import search as searching
from engine.simulate.schedules import Schedule
from tasks.operations.status import date_status
from tasks.plan import choice as choosing
from tasks.plan import plan as planning
from tasks.plan.plan import FIRST_FOLDER, plan, take_plan
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tests.support.demo_nights import (
    DAY,
    answer,
    batch_line,
    night_request,
    opened,
    outputs_of,
    write_lines,
)

FOLDER = f"{FIRST_FOLDER}"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A log of enough requests, and a budget for all of them however fast the device."""
    monkeypatch.setattr(searching, "SHARE", 1e6)
    lines = [
        batch_line(f"r{i}", f"Of subject {i // 16}: tell {i}", max_tokens=4 if i % 4 else 40)
        for i in range(160)
    ]
    write_lines(tmp_path / "logs", "a.jsonl", lines)
    return tmp_path


def request_of(root, policy=AUTO_ORDER, **settings):
    return night_request(root, policy=policy, **{"max_sequences": 16, "token_budget": 1024, **settings})


def planned(root, name: str, request):
    """Plan in an attempt of its own; return the results, and the job and the plan that the engine gets."""
    with opened(request, root / name) as night:
        profile(night)
        results = plan(night)
        folder = night.scratch / FOLDER
        return results, json.loads((folder / "job.json").read_text()), read_plan_file(folder / "plan.npz")


def test_the_job_names_what_was_chosen_and_the_report_why(root):
    results, job, made = planned(root, "first", request_of(root))
    choice = results["choice"]
    chosen = Schedule.read(choice["schedule"])
    assert results["policy"] == made.policy == chosen.policy != AUTO_ORDER
    assert made.reserve == chosen.reserve
    assert (job["token_budget"], job["pacing"]) == (chosen.token_budget, chosen.pacing)
    assert job["max_sequences"] == results["step"]["max_sequences"] == 16
    assert len(choice["trials"]) > 1
    assert "The next best" in choice["why"]
    with opened(request_of(root), root / "again") as night:
        said = date_status(night.store, night.job, DAY, store_name="store")["order"]
        assert said == f"{chosen}. {choice['why']}"
        # A plan made elsewhere is taken with its steps.
        assert not take_plan(night)
        plan(night)
        written = (night.scratch / FOLDER / "job.json").read_text()
        (night.scratch / FOLDER / "job.json").unlink()
        assert take_plan(night)
        assert (night.scratch / FOLDER / "job.json").read_text() == written


def test_a_resumed_run_keeps_its_choice_while_the_device_is_the_same(root, monkeypatch):
    first, _, _ = planned(root, "first", request_of(root))

    def other(*arguments, **keywords):
        found = searching.search(*arguments, **keywords)
        return replace(found, schedule=Schedule("dfs", 512, pacing=True))

    monkeypatch.setattr(choosing, "search", other)
    again, _, _ = planned(root, "second", request_of(root))
    assert again["choice"] == first["choice"]
    third, job, made = planned(root, "third", request_of(root, token_budget=768))
    assert (made.policy, job["token_budget"], job["pacing"]) == ("dfs", 512, True)
    assert third["choice"] != first["choice"]


def test_a_policy_that_is_named_goes_on_unchanged(root, monkeypatch):
    monkeypatch.setattr(choosing, "search", None)
    results, job, made = planned(root, "first", request_of(root, policy="dfs"))
    assert (results["policy"], results["choice"], made.policy) == ("dfs", None, "dfs")
    assert (job["token_budget"], job["pacing"], job["max_sequences"]) == (1024, None, 16)


def test_a_night_too_small_to_search_is_blended(tmp_path):
    write_lines(tmp_path / "logs", "a.jsonl", [batch_line("a", "One"), batch_line("b", "Two")])
    results, _, made = planned(tmp_path, "first", request_of(tmp_path))
    assert made.policy == "blend"
    assert "Not searched" in results["choice"]["why"]


def test_the_engine_takes_the_chosen_steps_and_the_publication_names_the_order(root, monkeypatch):
    chosen = Schedule("dfs", 64, pacing=True)

    def found(*arguments, **keywords):
        return replace(searching.search(*arguments, **keywords), schedule=chosen)

    monkeypatch.setattr(choosing, "search", found)
    with opened(request_of(root, part_answers=500), root / "night") as night:
        profile(night)
        results = answer(night)
        assert results["engine_settings"]["token_budget"] == 64
        assert results["engine_settings"]["pacing"]
        steps = night.read_table("steps").to_pylist()
        assert max(step["prefill_tokens"] + step["decode_tokens"] for step in steps) <= 64
        assert publish(night)["policy"] == "dfs"
        assert len(outputs_of(night)) == 160


def test_a_large_night_learns_from_every_workload(root, monkeypatch):
    few = [batch_line(f"v{i}", f"Film {i}", max_tokens=40, metadata={"workload": "video"}) for i in range(12)]
    write_lines(root / "logs", "b.jsonl", few)
    asked = {"policy": "blend", "lengths": COMBINED}
    small, _, _ = planned(root, "small", request_of(root, **asked))
    monkeypatch.setattr(planning, "BY_WORKLOAD", 100)
    large, _, _ = planned(root, "large", request_of(root, **asked))
    # A hundredth of all, and 32 of the other workload with half of the few.
    assert small["sampled"] == 2
    assert large["sampled"] == 32 + 6
