"""Figures per request before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plan.tree import build_tree, cached_tokens, hit_rate_optimum
from tasks.base.accounting import Account
from tasks.base.errors import ConfigurationError
from tasks.profile.profile import profile
from tasks.store.folder import FolderStore
from tests.support.nights import open_test_night, request, write_inputs

if TYPE_CHECKING:
    from pathlib import Path


def test_profile_of_a_night(tmp_path: Path) -> None:
    rows = [
        request("a", observed_output_tokens=4, workload="pick", input_tokens=4),
        request("b", workload="pick", max_tokens=8, input_tokens=5),
        request("c", workload="count", max_tokens=3, input_tokens=4),
        request("d", workload="count", input_tokens=2),
    ]
    prompts = [(1, 2, 3, 4), (1, 2, 3, 9, 9), (1, 2, 3, 4), (7, 7)]
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        write_inputs(night, rows, Account(lines=4, requests=4), prompts)
        results = profile(night)
        assert profile(night) == results
        assert len(night.parts("profiles")) == 1
        table = night.read_table("profiles").to_pylist()
    assert [row["request_id"] for row in table] == [row["request_id"] for row in rows]
    # Sorted: a, c (all but its last token shared), b, d.
    assert [row["cached_tokens"] for row in table] == [0, 3, 3, 0]
    assert [row["estimated_output_tokens"] for row in table] == [4, 4, 3, 4]
    assert [row["output_length_source"] for row in table] == ["observed", "workload", "global", "global"]
    for row in table:
        assert row["density"] == pytest.approx(row["compute_seconds"] / row["memory_seconds"])
    assert results["requests"] == 4
    assert results["hit_rate_optimum"] == pytest.approx(6 / 15)
    assert results["length_sources"] == {"observed": 1, "workload": 1, "global": 2}
    assert list(results["workloads"]) == ["count", "pick"]
    pick = results["workloads"]["pick"]
    assert pick["count"] == 2
    assert pick["input_tokens"] == {"mean": 4.5, "p50": 4.5, "p90": pytest.approx(4.9)}
    assert pick["output_tokens"]["mean"] == 4
    assert pick["density"]["p10"] <= pick["density"]["p50"] <= pick["density"]["p90"]


def test_lengths_stay_within_the_context(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        rows = [request("a", max_tokens=5000, observed_output_tokens=4000)]
        write_inputs(night, rows, Account(lines=1, requests=1))
        profile(night)
        (row,) = night.read_table("profiles").to_pylist()
    assert row["estimated_output_tokens"] == 64 - 3


def test_empty_date(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        write_inputs(night, [], Account())
        results = profile(night)
        assert night.read_table("profiles").num_rows == 0
    assert results["requests"] == 0
    assert results["workloads"] == {}


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch", device="abacus") as night:
        write_inputs(night, [request("a")], Account(lines=1, requests=1))
        with pytest.raises(ConfigurationError, match="--device: 'abacus' is unknown"):
            profile(night)


def test_without_tokens_there_is_nothing_to_profile(tmp_path: Path) -> None:
    with (
        open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night,
        pytest.raises(RuntimeError, match="tokenize"),
    ):
        profile(night)


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


@given(PROMPTS)
def test_cached_tokens_add_up_to_the_optimum(prompts: list[list[int]]) -> None:
    tokens = np.array([token for prompt in prompts for token in prompt], np.int32)
    start = np.cumsum([0, *map(len, prompts)]).astype(np.int64)
    tree = build_tree(tokens, start)
    cached = cached_tokens(tree)
    assert cached.sum() == pytest.approx(hit_rate_optimum(tree) * len(tokens))
    # Brute force: the longest prefix shared with any prompt that sorts earlier.
    order = tree.sorted.tolist()
    for place, i in enumerate(order):
        best = 0
        for j in order[:place]:
            pairs = zip(prompts[i], prompts[j], strict=False)
            shared = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            best = max(best, min(len(prompts[i]), len(prompts[j])) if shared is None else shared)
        assert cached[i] == min(best, len(prompts[i]) - 1)
