"""What `auto` chooses on a mix, and how far the best order of all is from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.simulate.schedules import Schedule, candidates
from engine.simulate.search import Work, search
from tests.benchmarks.lib import digest
from tests.benchmarks.plan import compare
from tests.benchmarks.plan.cells import LENGTHS, PACED_BUDGET, RESERVES, SHAPE, Run
from tests.benchmarks.plan.orders import BASELINES
from tests.benchmarks.plan.peers import PEERS

if TYPE_CHECKING:
    from engine.runtime.core import EngineSettings
    from tests.benchmarks.plan.cells import Bench

Figures = dict[str, Any]
ESTIMATED = "sampled1"
"""Where estimated lengths come from (`cells.LENGTHS`)."""


def run_of(schedule: Schedule, interference: float | None, lengths: str = "known") -> Run:
    """Return the run that follows a schedule."""
    reserve = next(name for name, value in RESERVES.items() if value == schedule.reserve)
    return Run(
        schedule.policy,
        schedule.token_budget,
        schedule.pacing,
        interference,
        lengths=lengths,
        reserve=reserve if schedule.policy == "blend" else "",
    )


def largest(bench: Bench) -> EngineSettings:
    """Return the largest sizes that a schedule may have."""
    return bench.settings(Run("blend"))


def choose(bench: Bench, interference: float | None, lengths: str = "known") -> Figures:
    """Return what `auto` chooses for a mix with such lengths, and what the search took."""
    # The search is no part of the code that the other cells depend on.
    code = digest.code_digest("tests/benchmarks/plan/auto.py")[:8]
    name = f"auto-{'serial' if interference is None else f'i{interference:g}'}-{lengths}-{code}"
    return bench.kept(name, lambda: _choose(bench, interference, lengths))


def _choose(bench: Bench, interference: float | None, lengths: str) -> Figures:
    import time

    whole, most = bench.whole, largest(bench)
    estimate = np.maximum(LENGTHS[lengths](whole), 1.0)
    work = Work(bench.tree(0), whole.tokens, whole.start, estimate, whole.workload.astype(np.int64))
    begin = time.process_time()
    found = search(
        work,
        candidates(most),
        SHAPE,
        bench.device,
        most,
        overlap=interference is not None,
        interference=interference,
    )
    return {**found.told(), "cpu_seconds": time.process_time() - begin}


def run_auto(
    bench: Bench, interference: float | None, sample: int, budgets: tuple[int, ...], *, peers: bool = True
) -> Figures:
    """Return the figures of one mix: `auto` beside every other order, tuned, and every candidate."""
    choice = choose(bench, interference)
    mine = bench.cell(run_of(Schedule.read(choice["schedule"]), interference))["seconds"]
    tried = {
        str(schedule): bench.cell(run_of(schedule, interference))["seconds"]
        for schedule in candidates(largest(bench))
    }
    orders: Figures = {}
    for order in (*BASELINES, *(PEERS if peers else ())):
        budget, figures = compare.fixed(bench, order, interference, sample, budgets)
        paced = bench.cell(Run(order, PACED_BUDGET, paced=True, interference=interference))
        orders[order] = {"budget": budget, "fixed_s": figures["seconds"], "paced_s": paced["seconds"]}
    others = {
        f"{order} {how}": row[f"{how}_s"] for order, row in orders.items() for how in ("fixed", "paced")
    }
    today = {name: seconds for name, seconds in others.items() if name.split()[0] not in PEERS}
    every = {**others, **tried}
    best, best_today = min(every, key=every.__getitem__), min(today, key=today.__getitem__)
    of_peers = {name: s for name, s in others.items() if name.split()[0] in PEERS}
    return {
        "mix": bench.mix.key,
        "device": bench.mix.device,
        "base": bench.mix.base,
        "interference": interference,
        "density": bench.whole.density,
        "sharing": bench.whole.hit_rate,
        "requests": bench.whole.requests,
        "choice": choice,
        "auto_s": mine,
        "candidates": tried,
        "orders": orders,
        "best": best,
        "vs_best": every[best] / mine,
        "best_other": best_today,
        "vs_best_other": today[best_today] / mine,
        "best_peer": min(of_peers, key=of_peers.__getitem__) if of_peers else None,
        "vs_best_peer": min(of_peers.values()) / mine if of_peers else None,
        "blend_vs_best": every[best] / bench.cell(Run("blend", interference=interference))["seconds"],
    }


def run_estimated(bench: Bench, interference: float | None) -> Figures:
    """Return what a choice by estimated lengths costs against one by known ones, the estimates in the run."""
    seconds = {}
    for lengths in ("known", ESTIMATED):
        choice = choose(bench, interference, lengths)
        run = run_of(Schedule.read(choice["schedule"]), interference, ESTIMATED)
        seconds[lengths] = bench.cell(run)["seconds"]
    return {
        "mix": bench.mix.key,
        "interference": interference,
        "known_choice_s": seconds["known"],
        "estimated_choice_s": seconds[ESTIMATED],
        "vs_known_choice": seconds["known"] / seconds[ESTIMATED],
    }


def print_auto(found: list[Figures]) -> None:
    """Print a line per mix."""
    titles = f"{'mix':44}{'overlap':>8}{'auto s':>10}{'vs best':>9}{'vs other':>10}{'vs peer':>9}{'blend':>8}"
    print(titles + "  chosen; best of all; best peer")
    for f in found:
        how = "none" if f["interference"] is None else f"{1 - f['interference']:.0%}"
        peer = "-" if f["vs_best_peer"] is None else f"{f['vs_best_peer']:.3f}"
        print(
            f"{f['mix']:44}{how:>8}{f['auto_s']:>10.0f}{f['vs_best']:>9.3f}{f['vs_best_other']:>10.3f}"
            f"{peer:>9}{f['blend_vs_best']:>8.3f}  {Schedule.read(f['choice']['schedule'])}; {f['best']}; "
            f"{f['best_peer']}"
        )
    least = min(found, key=lambda f: float(f["vs_best"]))
    print(
        f"least {least['vs_best']:.3f} ({least['mix']}); search at most "
        f"{max(f['choice']['cpu_seconds'] for f in found):.1f} s of a core"
    )


def print_estimated(found: list[Figures]) -> None:
    """Print a line per mix."""
    for f in found:
        print(
            f"{f['mix']:44}{f['known_choice_s']:>10.0f}{f['estimated_choice_s']:>10.0f}"
            f"{f['vs_known_choice']:>9.3f}"
        )
