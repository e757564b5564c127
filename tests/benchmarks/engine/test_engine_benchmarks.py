"""What the benchmarks of engines make of their runs."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.plan import plan as planning
from tests.benchmarks.engine import blend_on_vllm, compare
from tests.benchmarks.engine.blend_on_vllm import Answers


def run(seconds: float, preemptions: int) -> dict:
    return {
        "kv_tokens": 5120,
        "order": "blend",
        "scheduled_by": "us",
        "lengths": "learnt",
        "steps": 600,
        "mixed_steps": 0.8,
        "hit_rate": 0.7706,
        "preemptions": preemptions,
        "recomputed_tokens": 1115,
        "seconds": seconds,
        "load_at_start": 1.004,
    }


def test_a_row_has_medians_and_what_each_round_took() -> None:
    row = blend_on_vllm.medians([run(20.0, 20), run(7.5, 24), run(8.25, 19)])
    assert (row["seconds"], row["preemptions"], row["order"]) == (8.25, 20, "blend")
    assert row["runs"] == {"seconds": [20.0, 7.5, 8.25], "load_at_start": [1.0, 1.0, 1.0]}
    *_, line = blend_on_vllm.table({"learnt-5120": row}).splitlines()
    assert line == "| 5,120 tokens | `blend` | us | learnt | 600 | 80 % | 77.1 % | 20 | 1,115 | 8.2 |"


def test_modelled_seconds_are_told_from_measured_ones() -> None:
    row = {**run(0.0029411, 0), "scheduled_by": "simulated, 8B on a100"}
    assert blend_on_vllm.table({"one": row}).splitlines()[-1].endswith("| 0.00294, modelled |")


def test_every_row_of_the_simulator_has_a_place() -> None:
    names = blend_on_vllm.simulated_names()
    assert len(set(names)) == len(names) == 12
    assert all(compare.SIZES[name] == value for name, value in blend_on_vllm.STEP.items())


def test_lengths_in_another_order_than_the_requests_are_none() -> None:
    limits = np.array(blend_on_vllm.limits())
    stored = Answers([int(limit) for _, limit in sorted(zip(blend_on_vllm.names(), limits, strict=True))], "")
    assert Answers.from_json(stored.as_json()) == stored
    with blend_on_vllm.in_the_log(stored):
        assert planning.estimate_lengths(None, limits, None)[0].tolist() == limits.tolist()
        with pytest.raises(SystemExit, match="not in the order"):
            planning.estimate_lengths(None, limits[::-1], None)
