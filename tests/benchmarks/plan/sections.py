"""The parts of the planner's benchmark: what each one runs, and how its table is printed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.lib import workloads
from tests.benchmarks.plan import auto, compare
from tests.benchmarks.plan.build import QUICK as BUILD_QUICK
from tests.benchmarks.plan.build import SIZES as BUILD_SIZES
from tests.benchmarks.plan.build import bench_build, print_build
from tests.benchmarks.plan.cells import BUDGETS, SAMPLE, Bench, Mix, Run
from tests.benchmarks.plan.mixes import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Figures = dict[str, Any]
DEVICES = ("a100", "h200")
INTERFERENCE = (0.2, 0.44, 0.6)
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 400_000)
REPLICAS = (2, 4, 8)
NIGHTS = {
    "first_night": "combined_again",
    "first_night_by_workload": "workloads_again",
    "later_night": "history_again",
}
"""Name -> lengths (`cells.AGAIN`)."""


@dataclass(frozen=True)
class Scale:
    """How much is run: everything, or a trial of it."""

    requests: int = workloads.REQUESTS
    sample: int = SAMPLE
    budgets: tuple[int, ...] = BUDGETS
    devices: tuple[str, ...] = DEVICES
    traces: tuple[str, ...] = tuple(workloads.TRACES)
    mooncake: int = 12_031
    documents: int = 5_000
    grid: int = len(workloads.GRID)
    sizes: tuple[int, ...] = SIZES
    replicas: int = 400_000
    divided: tuple[str, ...] = tuple(workloads.TRACES)
    build_sizes: tuple[tuple[int, int], ...] = BUILD_SIZES
    interference: tuple[float, ...] = INTERFERENCE
    beside: tuple[str, ...] = tuple(workloads.TRACES)
    auto: int = 10_000
    auto_grid: int = 13
    others: tuple[str, ...] = ("mooncake", "documents", *ALONE)
    holdout: int = 10
    nights: int = 10


QUICK = Scale(
    requests=2_000,
    sample=0,
    budgets=(512, 2048, 8192),
    devices=("a100",),
    traces=("#1", "#4"),
    mooncake=400,
    documents=200,
    grid=1,
    sizes=(1_000, 2_000),
    replicas=4_000,
    divided=("#1",),
    build_sizes=BUILD_QUICK,
    interference=(0.44,),
    beside=("#1",),
    auto=2_000,
    auto_grid=0,
    others=("mooncake", "chats"),
    holdout=1,
    nights=2,
)


@dataclass(frozen=True)
class Task:
    """One piece of work: a function of `RUNNERS`, a mix, and its argument."""

    section: str
    mix: Mix
    runner: str = "compare"
    argument: Any = 0.0

    @property
    def name(self) -> str:
        """What `--cells` is matched with."""
        return f"{self.section}/{self.mix.key}/{self.argument}"


def trace(name: str, device: str, requests: int, base: str = "azure") -> Mix:
    """Return one of the four traces."""
    density, sharing = workloads.TRACES[name]
    return Mix(device, density, sharing, base, requests)


def grid_points(count: int) -> list[tuple[float, float]]:
    """Return `count` points spread evenly over the 65: all densities in turn, all sharings in turn."""
    densities = sorted({d for d, _ in workloads.GRID})
    sharings = sorted({s for _, s in workloads.GRID})
    return [
        (densities[int((k + 0.5) * len(densities) / count)], sharings[2 * k % len(sharings)])
        for k in range(count)
    ]


def tasks(scale: Scale) -> Iterator[Task]:
    """Yield everything there is to run, what the promised figures need first."""
    mixes = [trace(name, device, scale.requests) for device in scale.devices for name in scale.traces]
    for mix in mixes:
        yield Task("traces", mix)
    for name in scale.beside:
        yield Task("sensitivity", trace(name, scale.devices[0], scale.requests), "sensitivity", "")
    first, later = _grid_tasks(scale)
    yield from first
    for name in scale.divided:
        yield Task("partition", trace(name, scale.devices[0], scale.replicas), "partition", REPLICAS)
    yield from later
    for device in scale.devices:
        for name in scale.beside:
            yield Task("serial", trace(name, device, scale.requests), argument=None)
            for interference in scale.interference:
                yield Task("interference", trace(name, device, scale.requests), argument=interference)
    for name in scale.beside:
        yield Task("strain", trace(name, scale.devices[0], scale.requests, "sharegpt"))
    yield Task("strain", Mix(scale.devices[0], 1.1, 0.0, "mooncake", scale.mooncake))
    yield Task("strain", Mix(scale.devices[0], 0.8, 0.0, "documents", scale.documents))
    yield from _auto_tasks(scale)
    for size in scale.sizes:
        yield Task("size", trace("#1", scale.devices[0], size), "size", "")
    yield Task("build", mixes[0], "build", "")


def _auto_tasks(scale: Scale) -> Iterator[Task]:
    """Yield what shows the choice of `auto`: every trace with and without overlap, mixes, held-out mixes."""
    for device in scale.devices:
        whole = [trace(name, device, scale.auto) for name in scale.traces]
        others = [
            Mix(device, 1.1, 0.0, "mooncake", scale.mooncake),
            Mix(device, 0.0, 0.0, "mooncake_alone", scale.mooncake),
            Mix(device, 0.8, 0.0, "documents", scale.documents),
            Mix(device, 0.0, 0.0, "chats", scale.auto),
            Mix(device, 0.0, 0.0, "mmlu", scale.auto),
            Mix(device, 0.0, 0.0, "pictures", scale.auto),
        ]
        whole += [mix for mix in others if mix.base in scale.others]
        for mix in whole:
            yield Task("auto", mix, "auto", 0.0)
            yield Task("auto", mix, "auto", None)
        for mix in whole:
            yield Task("estimated", mix, "estimated", 0.0)
        for density, sharing in grid_points(scale.auto_grid):
            yield Task("auto", Mix(device, density, sharing, requests=scale.auto), "auto", 0.0)
        # The first few seeds have been looked at while the search was written.
        for seed in range(100, 100 + scale.holdout):
            for interference in (0.0, None):
                mix = Mix(device, 0.0, 0.0, f"holdout{seed}", scale.auto)
                yield Task("holdout", mix, "auto", interference)
    for name in scale.beside:
        yield Task("nights", trace(name, scale.devices[0], scale.auto), "nights", scale.nights)


def _grid_tasks(scale: Scale) -> tuple[list[Task], list[Task]]:
    """Return the mixes of the grid, a fifth of them first; spread evenly wherever the run is cut off."""
    points = grid_points(scale.grid)
    # Multiples of the golden ratio fill any interval evenly.
    order = sorted(range(len(points)), key=lambda k: k * 0.618034 % 1.0)
    mixes = [Mix(device, *points[k], requests=scale.requests) for k in order for device in scale.devices]
    found = [Task("grid", mix) for mix in mixes]
    return found[: len(found) // 5], found[len(found) // 5 :]


def run_compare(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Compare the orders."""
    return compare.compare(bench, task.argument, scale.sample, scale.budgets)


def run_sensitivity(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Run the paced blend with wrong lengths, other admission rules, and half the memory."""
    del task
    known = Run("blend")
    changes = {
        "known lengths": known,
        "lengths x 0.5": replace(known, lengths="x0.5"),
        "lengths x 1.5": replace(known, lengths="x1.5"),
        "each length +-50 %": replace(known, lengths="noise50"),
        "sampled: 1 %": replace(known, lengths="sampled1"),
        "sampled: 100 %": replace(known, lengths="sampled100"),
        "sampled: 1 %, planned again": replace(known, lengths="sampled_again"),
        "first night, planned again": replace(known, lengths="combined_again"),
        "later night, planned again": replace(known, lengths="history_again"),
        "KV memory halved": replace(known, memory=0.5),
        "admission by p + d": replace(known, admission="total"),
        "admission by p + d / 2": replace(known, admission="average"),
    }
    half = {order: bench.cell(Run(order, memory=0.5))["seconds"] for order in ("interleave", "dfs")}
    rows = {name: bench.cell(run) for name, run in changes.items()}
    best = min(half, key=half.__getitem__)
    del scale
    return {
        "mix": bench.mix.key,
        "rows": {
            name: {
                "seconds": row["seconds"],
                "vs_known": row["seconds"] / rows["known lengths"]["seconds"],
                "retractions": row["retractions"],
                "recomputed_tokens": row["recomputed_tokens"],
            }
            for name, row in rows.items()
        },
        "half_memory_vs_best_paced": half[best] / rows["KV memory halved"]["seconds"],
    }


def run_size(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Run the blend, with known and with learnt lengths, and its two strongest rivals on so many requests."""
    del task, scale
    blend = bench.cell(Run("blend"))
    learnt = {
        name: bench.cell(Run("blend", lengths=lengths))["seconds"] / blend["seconds"]
        for name, lengths in (("first_night", "combined_again"), ("later_night", "history_again"))
    }
    return {
        "requests": bench.mix.requests,
        "blend_s": blend["seconds"],
        "optimum_share": bench.bounds()["practical"] / blend["seconds"],
        "binds": bench.bounds()["binds"],
        "vs_dfs_2048": bench.cell(Run("dfs", 2048, paced=False))["seconds"] / blend["seconds"],
        "vs_interleave_paced": bench.cell(Run("interleave"))["seconds"] / blend["seconds"],
        **{f"{name}_vs_known": ratio for name, ratio in learnt.items()},
        "simulated_in_s": blend["simulated_in_s"],
    }


def run_partition(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Divide a trace among replicas; the speed-up is over one replica's makespan, the slowest one counts."""
    del scale
    alone = bench.cell(Run("blend"))["seconds"]
    found = {n: bench.divide(n) for n in task.argument}
    return {
        "mix": bench.mix.key,
        "alone_s": alone,
        "speedup": {str(n): alone / max(f["seconds"]) for n, f in found.items()},
        "replicas": {str(n): f for n, f in found.items()},
    }


def run_build(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Measure tree and order by size, each size in a process of its own."""
    del task

    def measure() -> Figures:
        return {"load_at_start": round(os.getloadavg()[0], 2), **bench_build(scale.build_sizes)}

    return bench.measured("build", measure)


def run_auto(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Put what `auto` chooses beside everything else."""
    return auto.run_auto(bench, task.argument, scale.sample, scale.budgets)


def run_estimated(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Put the choice by estimated lengths beside the one by known lengths."""
    del scale
    return auto.run_estimated(bench, task.argument)


def run_nights(bench: Bench, task: Task, scale: Scale) -> Figures:
    """Run first and later nights with other samples each; single ones scatter."""
    del scale
    known = bench.cell(Run("blend"))["seconds"]
    ratios = {
        name: [
            bench.cell(Run("blend", lengths=lengths, seed=seed))["seconds"] / known
            for seed in range(task.argument)
        ]
        for name, lengths in NIGHTS.items()
    }
    return {"mix": bench.mix.key, "known_s": known, "vs_known": ratios}


RUNNERS: dict[str, Callable[[Bench, Task, Scale], Figures]] = {
    "compare": run_compare,
    "sensitivity": run_sensitivity,
    "size": run_size,
    "partition": run_partition,
    "build": run_build,
    "auto": run_auto,
    "estimated": run_estimated,
    "nights": run_nights,
}


def print_section(section: str, found: list[Figures]) -> None:
    """Print a section's table."""
    print(f"\n== {section}: {TITLES[section]}")
    if section in ("traces", "grid", "serial", "strain"):
        print(compare.header())
        for figures in found:
            print(compare.line(figures))
        _print_summary(found)
    elif section == "interference":
        for value in sorted({f["interference"] for f in found}):
            print(f"interference {value}: ", end="")
            _print_summary([f for f in found if f["interference"] == value])
    else:
        PRINTERS[section](found)


def _print_summary(found: list[Figures]) -> None:
    s = compare.summary(found)
    print(
        f"{s['mixes']} mixes: over dfs at 2,048 {s['mean_vs_dfs_2048']:.3f}x "
        f"({s['min_vs_dfs_2048']:.2f}-{s['max_vs_dfs_2048']:.2f}); over the best fixed "
        f"{s['mean_vs_best_fixed']:.3f}x (least {s['min_vs_best_fixed']:.3f}); over the best paced "
        f"{s['mean_vs_best_paced']:.3f}x (least {s['min_vs_best_paced']:.3f}); of the optimum "
        f"{s['optimum_share_mean']:.1%} (least {s['optimum_share_min']:.1%}); sharing kept at least "
        f"{s['sharing_kept_min']:.1%}; binding limit {s['binding']}"
    )


def _print_sensitivity(found: list[Figures]) -> None:
    print(f"{'makespan over known lengths':32}" + "".join(f"{f['mix'][:24]:>26}" for f in found))
    for name in found[0]["rows"]:
        rows = [f["rows"][name] for f in found]
        values = [f"{r['vs_known']:.3f} ({r['retractions']} preempted)" for r in rows]
        print(f"{name:32}" + "".join(f"{v:>26}" for v in values))
    values = [f"{f['half_memory_vs_best_paced']:.2f}" for f in found]
    print(f"{'half memory: over best paced':32}" + "".join(f"{v:>26}" for v in values))


def _print_size(found: list[Figures]) -> None:
    titles = f"{'requests':>10}{'blend s':>10}{'optimum':>9}{'vs dfs 2048':>13}{'vs interleave paced':>21}"
    print(titles + f"{'first night':>13}{'later night':>13}{'took s':>8}")
    for f in sorted(found, key=lambda f: f["requests"]):
        print(
            f"{f['requests']:>10,}{f['blend_s']:>10.0f}{f['optimum_share']:>9.1%}{f['vs_dfs_2048']:>13.2f}"
            f"{f['vs_interleave_paced']:>21.2f}{f['first_night_vs_known']:>13.3f}"
            f"{f['later_night_vs_known']:>13.3f}{f['simulated_in_s']:>8.1f}  {f['binds']} binds"
        )


def _print_partition(found: list[Figures]) -> None:
    print(f"{'trace':32}{'alone s':>10}" + "".join(f"{f'{n} replicas':>30}" for n in found[0]["speedup"]))
    for f in found:
        cells = [
            f"{f['speedup'][n]:.3f} ({r['imbalance']:.1%} uneven, {r['recomputed_tokens']} again)"
            for n, r in f["replicas"].items()
        ]
        print(f"{f['mix']:32}{f['alone_s']:>10.0f}" + "".join(f"{c:>34}" for c in cells))


def _print_build(found: list[Figures]) -> None:
    for figures in found:
        print_build(figures)


def _print_nights(found: list[Figures]) -> None:
    for f in found:
        said = [
            f"{name} {np.mean(r):.3f} +- {np.std(r):.3f} ({min(r):.3f}-{max(r):.3f})"
            for name, r in f["vs_known"].items()
        ]
        print(f"{f['mix']:32}{'; '.join(said)}")


PRINTERS = {
    "auto": auto.print_auto,
    "holdout": auto.print_auto,
    "estimated": auto.print_estimated,
    "nights": _print_nights,
    "sensitivity": _print_sensitivity,
    "size": _print_size,
    "partition": _print_partition,
    "build": _print_build,
}
TITLES = {
    "traces": "the four traces, simulated, perfect overlap",
    "grid": "mixes of density and sharing, simulated, perfect overlap",
    "serial": "the four traces without overlap, simulated",
    "interference": "the four traces, compute and memory work slowing each other down, simulated",
    "strain": "ShareGPT lengths; more distinct KV than memory; long documents, simulated, perfect overlap",
    "sensitivity": "the blend with wrong lengths, other admission rules and less memory, simulated",
    "size": "trace #1 in many sizes, simulated",
    "partition": "speed-up over one replica, simulated",
    "build": "tree and order, measured on this machine",
    "auto": "what auto chooses against all candidates, orders and other systems' orders, simulated",
    "holdout": "the same on mixes that nothing was tuned on, simulated",
    "estimated": "auto's choice by known and by estimated lengths, both run with estimated ones, simulated",
    "nights": "makespan over known lengths, with other samples each, simulated",
}
