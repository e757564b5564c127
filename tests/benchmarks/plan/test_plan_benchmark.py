"""The planner's benchmark: the search for budgets, the other orders, its bounds, and what it keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plan.sampled import choose_sample
from engine.plan.tree import build_tree
from tests.benchmarks.lib import sources, workloads
from tests.benchmarks.plan import __main__ as benchmark
from tests.benchmarks.plan import cells, compare, orders, peers, sections

pytestmark = [
    pytest.mark.skipif(
        not (sources.traces() / "mmlu.parquet").exists(),
        reason="no traces; set NIGHTBLEND_TRACES to their folder",
    ),
]
PROMISED = {
    "build_400k_s",
    "build_400k_peak_gb",
    "grid_mean_vs_dfs_2048",
    "grid_mean_vs_best_fixed",
    "grid_min_vs_best_fixed",
    "grid_mean_vs_best_paced",
    "optimum_share_mean",
    "sharing_kept_min",
    "partition_speedup",
    "makespan_vs_oracle",
    "auto_min_vs_best",
    "auto_mean_vs_best",
    "auto_min_vs_best_other",
    "auto_min_vs_best_peer",
    "auto_search_seconds_max",
    "auto_estimated_min_vs_known",
    "first_night_over_seeds",
    "later_night_over_seeds",
}


@given(
    st.lists(st.integers(0, 9), min_size=6, max_size=6), st.lists(st.integers(0, 9), min_size=6, max_size=6)
)
def test_the_best_budget_has_no_better_neighbour(sample: list[int], full: list[int]):
    tried: list[int] = []

    def on_all(budget: int) -> float:
        tried.append(budget)
        return full[cells.BUDGETS.index(budget)]

    best = compare.best_budget(lambda b: sample[cells.BUDGETS.index(b)], on_all, cells.BUDGETS)
    place = cells.BUDGETS.index(best)
    assert all(full[place] <= full[i] for i in (place - 1, place + 1) if 0 <= i < 6)
    assert full[place] == min(full[cells.BUDGETS.index(b)] for b in tried)
    assert full[place] <= full[int(np.argmin(sample))]


@pytest.fixture(scope="module")
def mix() -> workloads.Workload:
    return workloads.recipe(1.1, 0.25, cells.SHAPE, cells.NOMINAL["a100"], requests=600)


def plan_of(order: str, mix: workloads.Workload):
    tree = build_tree(mix.tokens, mix.start)
    return orders.plan_of(order, mix, tree, mix.output.astype(float), cells.SHAPE, cells.NOMINAL["a100"])


@pytest.mark.parametrize("order", sorted(orders.ORDERS))
def test_every_order_holds_every_request_once(order, mix):
    plan = plan_of(order, mix)
    assert sorted(plan.order.tolist()) == list(range(mix.requests))
    assert (plan.policy == "blend") == (order == "blend")


def test_batchllm_groups_by_the_prefix_that_saves_most_and_puts_long_answers_first():
    rng = np.random.default_rng(0)
    head, deep = rng.integers(0, 9, 30), rng.integers(0, 9, 90)
    # Six share 30 tokens; three of them 90 more: together they save more by the 120 (240 > 150).
    prompts = [np.concatenate((head, deep, [20 + i])) for i in range(3)]
    prompts += [np.concatenate((head, [30 + i])) for i in range(3)]
    tokens = np.concatenate(prompts).astype(np.int32)
    start = np.concatenate(([0], np.cumsum([p.size for p in prompts]))).astype(np.int64)
    tree = build_tree(tokens, start)
    group = peers.groups_of(tree)
    assert len(set(group[:3].tolist())) == 1
    assert len(set(group[3:].tolist())) == 3
    # 3 answers of 50 for 123 tokens, then single ones of 1 and 99 for 31.
    estimate = np.array([50.0, 50, 50, 1, 99, 1])
    assert peers.batchllm(None, tree, estimate).tolist()[0] == 4
    assert set(peers.batchllm(None, tree, estimate).tolist()[1:4]) == {0, 1, 2}


def test_longest_first_runs_its_sample_and_then_the_workload_of_the_longest_answers(mix):
    tree = build_tree(mix.tokens, mix.start)
    order = peers.longest_first(mix, tree, None)
    sampled = len(choose_sample(tree, peers.SAMPLE))
    rest = mix.workload[order[sampled:]]
    jobs = rest[np.concatenate(([True], rest[1:] != rest[:-1]))]
    assert len(jobs) <= len(mix.workloads)
    arrived = order[sampled:][rest == rest[0]]
    assert np.all(np.diff(arrived) > 0)


def test_by_system_prompt_keeps_each_together_in_order_of_arrival(mix):
    order = peers.by_system_prompt(mix, None, None)
    systems = mix.workload[order]
    assert np.count_nonzero(systems[1:] != systems[:-1]) == len(set(mix.workload.tolist())) - 1
    for system in set(systems.tolist()):
        assert np.all(np.diff(order[systems == system]) > 0)


def test_held_out_mixes_are_their_seeds_and_differ():
    one, again, other = (cells.Mix("a100", 0.0, 0.0, f"holdout{seed}", 300).build() for seed in (4, 4, 5))
    assert np.array_equal(one.tokens, again.tokens)
    assert one.density != other.density
    assert one.requests == pytest.approx(300, abs=60)
    assert 0 < one.hit_rate < 1


def test_a_part_does_not_replace_figures_of_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "simulate", made_up)
    out = tmp_path / "plan.json"
    out.write_text(json.dumps({"complete": True, "grid_mean_vs_best_fixed": 1.2, "sections": {}}))
    arguments = ["--quick", "--jobs", "1", "--scratch", str(tmp_path), "--requests", "2000"]
    benchmark.main([*arguments, "--section", "traces", "--cells", "*d1.40*", "--out", str(out)])
    record = json.loads(out.read_text())
    assert (record["complete"], record["grid_mean_vs_best_fixed"]) == (True, 1.2)
    assert not record["reduced"]["complete"]
    assert record["reduced"]["sections"]["traces"]


def test_prefill_first_begins_with_the_compute_heavy(mix):
    plan = plan_of("prefill_first", mix)
    video = mix.workloads.index("video")
    assert np.all(mix.workload[plan.order[-np.count_nonzero(mix.workload == video) :]] == video)


def test_grid_points_are_distinct_and_spread():
    assert sorted(sections.grid_points(65)) == sorted(workloads.GRID)
    for count in (5, 13, 26):
        points = sections.grid_points(count)
        assert len(set(points)) == count
        assert {s for _, s in points} == {0.05, 0.15, 0.25, 0.35, 0.45}
        assert max(d for d, _ in points) - min(d for d, _ in points) >= 0.4


def small(density: float = 1.1) -> cells.Mix:
    return cells.Mix("a100", density, 0.25, requests=300)


def test_a_cell_is_simulated_once(tmp_path, monkeypatch):
    first = cells.Bench(small(), tmp_path).cell(cells.Run("dfs", 2048, paced=False))
    monkeypatch.setattr(cells, "simulate", lambda *_: pytest.fail("simulated again"))
    again = cells.Bench(small(), tmp_path).cell(cells.Run("dfs", 2048, paced=False))
    assert first == again
    assert first["seconds"] > 0


def test_what_is_done_is_collected_and_what_is_not_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cells, "simulate", made_up)
    out = tmp_path / "plan.json"
    arguments = ["--quick", "--jobs", "1", "--scratch", str(tmp_path), "--requests", "2000"]
    arguments += ["--section", "traces", "--out", str(out)]
    benchmark.main([*arguments, "--cells", "*d1.40*"])
    done = json.loads(out.read_text())["sections"]["traces"]
    monkeypatch.setattr(cells, "simulate", lambda *_, **__: pytest.fail("simulated"))
    benchmark.main([*arguments, "--kept"])
    record = json.loads(out.read_text())
    assert "1 of 2 parts are done" in capsys.readouterr().out
    assert record["sections"]["traces"] == done
    assert record["missing"] == ["traces/a100-azure-d0.90-s0.05-n2000/0.0"]
    assert not record["complete"]


def test_different_cells_have_different_names():
    runs = [
        cells.Run("dfs"),
        cells.Run("dfs", interference=None),
        cells.Run("dfs", interference=0.2),
        cells.Run("dfs", memory=0.5),
        cells.Run("dfs", lengths="x0.5"),
        cells.Run("dfs", sample=500),
        cells.Run("dfs", 2048),
        cells.Run("dfs", 2048, paced=False),
        cells.Run("blend"),
    ]
    assert len({r.key for r in runs}) == len(runs)
    assert small(1.1).key != small(1.15).key


@pytest.mark.parametrize("interference", [0.0, 0.44, None])
def test_no_order_beats_the_bound(tmp_path, interference):
    bench = cells.Bench(small(), tmp_path)
    bound = bench.bounds(interference)
    for order in ("random", "dfs", "blend"):
        run = bench.cell(cells.Run(order, interference=interference))
        assert run["seconds"] >= bound["practical"] * (1 - 1e-9)
        assert run["compute_seconds"] >= bound["compute"] * (1 - 1e-9)
        assert run["memory_seconds"] >= max(bound["memory"], bound["longest"]) * (1 - 1e-9)


def test_the_bound_names_the_limit_that_binds(tmp_path):
    few, many = cells.Bench(small(), tmp_path).bounds(), cells.Bench(cells.Mix("a100", 3.0, 0.25), tmp_path)
    assert few["binds"] == "longest"
    assert many.bounds()["binds"] == "compute"
    assert many.bounds()["practical"] == many.bounds()["compute"]


@dataclass(frozen=True)
class Modelled:
    """What a simulated run has, from a made-up formula."""

    seconds: float
    hit_rate: float = 0.2
    preemptions: int = 0
    recomputed_tokens: int = 0


def made_up(plan, _tokens, _start, output, engine_settings, cost, reviser=None) -> Modelled:
    best = 2048 if plan.policy == "dfs" else 512
    assert reviser is None or reviser.plan is plan
    wasted = abs(np.log2(engine_settings.token_budget / best)) * (not engine_settings.pacing)
    return Modelled(seconds=float(len(output)) * (1 + 0.1 * wasted) * (1 + cost.interference))


def test_a_trial_prints_every_table_and_every_promised_figure(tmp_path, monkeypatch, capsys):
    tiny = sections.Scale(
        requests=2000,
        sample=500,
        devices=("a100",),
        grid=1,
        sizes=(2000, 3000),
        build_sizes=((2000, 50),),
        replicas=2000,
        divided=("#1",),
        interference=(0.44,),
        traces=("#1",),
        beside=("#1",),
        auto=2000,
        auto_grid=1,
        nights=2,
    )
    monkeypatch.setattr(benchmark, "QUICK", tiny)
    monkeypatch.setattr(cells, "simulate", made_up)
    built = {"build_400k_s": 4.0, "build_400k_peak_gb": 3.0}
    monkeypatch.setattr(sections, "bench_build", lambda sizes: built if sizes == ((2000, 50),) else {})
    monkeypatch.setattr(sections, "print_build", print)
    everything = sections.tasks
    monkeypatch.setattr(sections, "tasks", lambda scale: azure_only(everything(scale)))
    out = tmp_path / "plan.json"
    benchmark.main(["--quick", "--jobs", "1", "--scratch", str(tmp_path), "--out", str(out)])
    text = capsys.readouterr().out
    record = json.loads(out.read_text())
    for expected in ("perfect overlap", "A TRIAL", "A SAMPLE of the grid: 1 of its 65"):
        assert expected in text
    assert not record["complete"]
    assert set(record) >= PROMISED
    (found,) = record["sections"]["grid"]
    assert found["orders"]["dfs"]["budget"] == 2048
    assert found["vs_best_fixed"] == pytest.approx(1.0)
    assert found["chain"]["pacing"] == pytest.approx(1.2)
    assert {f["interference"] for f in record["sections"]["serial"]} == {None}
    slower = (
        record["sections"]["serial"][0]["blend"]["seconds"]
        / record["sections"]["traces"][0]["blend"]["seconds"]
    )
    assert slower == pytest.approx(2.0)


def azure_only(all_tasks):
    return (t for t in all_tasks if t.mix.base == "azure")


def test_only_the_asked_for_tasks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cells, "simulate", made_up)
    arguments = ["--quick", "--jobs", "1", "--scratch", str(tmp_path), "--requests", "2000"]
    benchmark.main([*arguments, "--section", "traces", "--cells", "*d1.40-s0.35*"])
    text = capsys.readouterr().out
    assert text.count("a100 azure 1.40/35%") == 1
    assert "a100 azure 0.90" not in text
    assert "== grid" not in text
