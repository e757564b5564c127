"""Inspecting a run: figures of a real night, slices of time, prefixes; and never a prompt."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.order import saved_tokens
from engine.plan.tree import build_tree
from flows import cli
from flows.views.inspect import tables_of
from tasks.base.errors import ConfigurationError
from tasks.profile.profile import profile
from tasks.report.inspect_run import inspect_run, lengths, mix_over_time, top_prefixes
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines

SECRET = "zanzibar"
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("night")
    lines = [batch_line(f"c{i}", f"Say {SECRET} and count to {i}.", max_tokens=4 + i) for i in range(8)]
    write_lines(root / "logs", "day.jsonl", lines)
    with opened(night_request(root), root / "scratch") as night:
        profile(night)
        answer(night)
        return str(root / "store" / night.log.prefix)


def test_figures_of_a_night(run: str) -> None:
    found = inspect_run(run)
    assert (found["status"], found["policy"], found["device"]) == ("completed", "blend", "cpu")
    tree = found["tree"]
    assert tree["requests"] == 8
    assert tree["prompt_tokens"] - tree["distinct_tokens"] == tree["saved_tokens"] > 0
    assert tree["prefixes"][0]["requests"] == 8
    assert tree["prefixes"][0]["density"] > 0
    planned = found["planned"]
    mix = found["mix"]
    assert sum(row["steps"] for row in mix) == planned["steps"]["actual"] > 0
    assert sum(row["prefill_tokens"] for row in mix) == planned["prefill_tokens"]["actual"]
    assert sum(row["decode_tokens"] for row in mix) == planned["output_tokens"]["actual"]
    assert planned["requests"] == {"planned": 8, "actual": 8}
    assert sum(row["requests"] for row in found["lengths"]) == 8
    assert found["workloads"]["default"]["count"] == 8
    assert len(inspect_run(run, top=1)["tree"]["prefixes"]) == 1


def test_command_line(run: str, capsys) -> None:
    assert cli.main(["inspect", run, "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["run"] == run
    assert SECRET not in out
    assert cli.main(["inspect", run]) == 0
    shown = capsys.readouterr().out
    for title in ("Prefixes that save most", "Mix over time", "Answer lengths", "Planned and actual"):
        assert title in shown
    assert SECRET not in shown


def test_no_run(tmp_path, capsys) -> None:
    for place in (str(tmp_path / "nothing"), "nothing"):
        with pytest.raises(ConfigurationError, match="no run log"):
            inspect_run(place)
    assert cli.main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "no run log" in capsys.readouterr().err


def test_a_run_that_has_only_begun(tmp_path) -> None:
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "Hello.")])
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        found = inspect_run(str(tmp_path / "store" / night.log.prefix))
    assert found["status"] == "unended"
    assert found["mix"] == found["lengths"] == []
    assert found["tree"]["requests"] == 1
    assert not any(rows for _, _, rows in tables_of(found))
    assert found["by_replica"] == []


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=14)


@settings(deadline=None)
@given(PROMPTS)
def test_prefixes_add_up_to_what_the_tree_saves(prompts) -> None:
    start = np.cumsum([0, *map(len, prompts)]).astype(np.int64)
    tree = build_tree(np.array([t for p in prompts for t in p], np.int32), start)
    names = ["even" if i % 2 == 0 else "odd" for i in range(len(prompts))]
    ones = [1.0] * len(prompts)
    rows = pl.DataFrame({"workload": names, "compute_seconds": ones, "memory_seconds": ones})
    found = top_prefixes(tree, rows, 100)
    saved = [row["saved_tokens"] for row in found]
    assert sum(saved) == saved_tokens(tree)
    assert saved == sorted(saved, reverse=True)
    for row in found:
        # Some prefix of that length is shared by exactly these requests.
        groups: dict[tuple[int, ...], list[str]] = {}
        for prompt, name in zip(prompts, names, strict=True):
            if len(prompt) >= row["tokens"]:
                groups.setdefault(tuple(prompt[: row["tokens"]]), []).append(name)
        counts = [{n: members.count(n) for n in set(members)} for members in groups.values()]
        assert row["workloads"] in counts
        assert sum(row["workloads"].values()) == row["requests"]
        assert row["density"] == 1.0


def test_slices_of_equal_time() -> None:
    seconds = [1.0, 1.0, 2.0, 4.0]
    rows = pl.DataFrame(
        {
            "step": [0, 1, 2, 3],
            "started_at": [AT + timedelta(seconds=s) for s in (0, 1, 2, 4)],
            "seconds": seconds,
            "prefill_tokens": [10, 20, 30, 40],
            "decode_tokens": [1, 2, 3, 4],
            "sequences": [4, 8, 6, 2],
            "modelled_compute_seconds": [1.0, 1.0, 1.0, 1.0],
            "modelled_memory_seconds": [0.5, 0.5, 2.0, 4.0],
            "retractions": [0, 0, 1, 0],
        }
    )
    found = mix_over_time(rows.sample(fraction=1.0, shuffle=True, seed=1), 2)
    assert [row["from_s"] for row in found] == [0.0, 4.0]
    assert [row["prefill_tokens"] for row in found] == [60, 40]
    assert [row["density"] for row in found] == [1.0, 0.25]
    assert found[0]["running"] == pytest.approx((4 + 8 + 12) / 4)
    assert [row["retractions"] for row in found] == [1, 0]


def test_lengths_by_source() -> None:
    profiles = pl.DataFrame(
        {
            "request_id": ["a", "b", "c"],
            "estimated_output_tokens": [10.0, 20.0, 5.0],
            "output_length_source": ["observed", "observed", "global"],
        }
    )
    outputs = pl.DataFrame(
        {"request_id": ["a", "b"], "usage": [{"completion_tokens": 12}, {"completion_tokens": 14}]}
    )
    (row,) = lengths(profiles, outputs)
    assert (row["source"], row["requests"], row["expected"], row["actual"]) == ("observed", 2, 15.0, 13.0)
    assert (row["mean_error"], row["mean_absolute_error"]) == (2.0, 4.0)
