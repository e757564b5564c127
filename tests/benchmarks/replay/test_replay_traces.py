"""Which strategy a replay takes from the measurements, and what its figures are made of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.cost.step import NOMINAL, ModelShape
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.lib.sources import Source
from tests.benchmarks.replay import record_traces, replay_traces
from tests.benchmarks.replay.strategy import measured, overlap_of

SHAPE = ModelShape.of(LLAMA_8B, 2)
FIGURES = {
    "pair_ratios": {
        "streams": 0.95,
        "k-limited 16": 0.9,
        "k-limited 48": 0.88,
        "k-limited and carveout 32, captured": 0.8,
        "green contexts 32, captured": 0.7,
    },
    "pair_strategy": "k-limited and carveout 32, captured",
    "surface_by_k": {
        "16": [[0.2, 0.1], [0.8, 0.9]],
        "32": [[0.2, 0.3], [0.8, 0.3]],
        "64": [[0.2, 0.9], [0.8, 0.1]],
    },
    "pair_surface": [[0.2, 0.1], [0.8, 0.1]],
    "profile": json.loads(json.dumps(vars(NOMINAL["h200"]))),
}


def test_the_best_strategy_that_the_runner_has_is_taken() -> None:
    found = overlap_of(FIGURES, SHAPE)
    assert found is not None
    # Green contexts are better, and not in the runner.
    assert (found.strategy.name, found.strategy.kept) == ("carveout", (16, 64))
    assert overlap_of(FIGURES, SHAPE, "none") is None
    streams = overlap_of(FIGURES, SHAPE, "streams")
    assert streams is not None
    assert streams.strategy.kept == (None,)
    # Its surface was not measured: the best k of the pair.
    limited = overlap_of(FIGURES, SHAPE, "k-limited")
    assert limited is not None
    assert limited.strategy.kept == (48,)
    chosen = overlap_of(FIGURES, SHAPE, "carveout", k=24)
    assert chosen is not None
    assert chosen.strategy.kept == (24,)


def test_gains_are_per_trace_and_on_average() -> None:
    def cell(trace: str, role: str, seconds: float) -> dict:
        return {"cell": f"{trace} {role}", "trace": trace, "role": role, "seconds": seconds}

    cells = [
        cell("#1", "blend", 10.0),
        cell("#1", "dfs_2048", 14.0),
        cell("#1", "best_serial", 13.0),
        cell("#3", "blend", 20.0),
        cell("#3", "dfs_2048", 24.0),
        cell("#4", "dfs_2048", 9.0),
    ]
    found = replay_traces.ratios({c["cell"]: c for c in cells})
    assert found == {
        "replay_vs_dfs_2048_overlap": {"#1": 1.4, "#3": 1.2, "mean": pytest.approx(1.3)},
        "replay_vs_best_no_overlap": {"#1": 1.3, "mean": 1.3},
    }
    assert [row.value for row in replay_traces.rows_of(found)] == pytest.approx([1.4, 1.2, 1.3, 1.3, 1.3])


def test_a_device_that_was_not_measured_is_named(tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"overlap-some-gpu\.json is missing: run `python -m tests"):
        measured(tmp_path, "Some GPU")


def test_shorter_requests_are_beginnings_that_share_what_they_can() -> None:
    prompt = np.array([1612, 812, 13])
    text = [np.arange(1600, dtype=np.int32), np.arange(800, dtype=np.int32)]
    source = Source("some", prompt, np.array([5, 3200, 31]), np.array([0, 700, 12]), text)
    found = record_traces.shorter(source)
    # 12 tokens of system prompt stay, of the rest a sixteenth.
    assert found.prompt.tolist() == [112, 62, 13]
    assert found.output.tolist() == [1, 200, 1]
    assert found.shared.tolist() == [0, 61, 12]
    assert [ids.tolist() for ids in found.text] == [list(range(100)), list(range(50))]
