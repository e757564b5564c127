"""The blend beside the other orders on one mix: each at its own best fixed budget, and paced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.benchmarks.plan.cells import BUDGETS, PACED_BUDGET, SAMPLE, Bench, Run
from tests.benchmarks.plan.orders import BASELINES

if TYPE_CHECKING:
    from collections.abc import Callable

Figures = dict[str, Any]


def best_budget(
    on_sample: Callable[[int], float],
    on_all: Callable[[int], float],
    budgets: tuple[int, ...],
) -> int:
    """Return the budget with the least time over all requests.

    Parameters
    ----------
    on_sample, on_all
        Seconds of a budget on the sample and on all requests. The best of the sample and its neighbours are
        tried on all requests, and so on until neither neighbour is better.
    """
    place = min(range(len(budgets)), key=lambda i: on_sample(budgets[i]))
    while True:
        near = range(max(place - 1, 0), min(place + 2, len(budgets)))
        best = min(near, key=lambda i: on_all(budgets[i]))
        if best == place:
            return budgets[place]
        place = best


def fixed(
    bench: Bench, order: str, interference: float | None, sample: int, budgets: tuple[int, ...]
) -> tuple[int, Figures]:
    """Return an order's best fixed budget and its figures."""

    def run(budget: int, part: int) -> Figures:
        return bench.cell(Run(order, budget, paced=False, interference=interference, sample=part))

    # A sample as large as the mix would repeat what follows.
    part = sample if sample < bench.mix.requests else 0
    budget = best_budget(
        lambda b: float(run(b, part)["seconds"]), lambda b: float(run(b, 0)["seconds"]), budgets
    )
    return budget, run(budget, 0)


def compare(
    bench: Bench,
    interference: float | None = 0.0,
    sample: int = SAMPLE,
    budgets: tuple[int, ...] = BUDGETS,
) -> Figures:
    """Return the figures of one mix.

    ``orders`` has the best fixed budget of each baseline and its figures paced; ``chain`` says where the gain
    over a random order at 2,048 tokens comes from, as factors: sharing (to depth-first), order (to the blend
    at the same budget), pacing (to the paced blend).
    """
    blend = bench.cell(Run("blend", interference=interference))
    orders: dict[str, Figures] = {}
    for order in BASELINES:
        budget, figures = fixed(bench, order, interference, sample, budgets)
        paced = bench.cell(Run(order, PACED_BUDGET, paced=True, interference=interference))
        orders[order] = {
            "budget": budget,
            "fixed_s": figures["seconds"],
            "paced_s": paced["seconds"],
            "hit_rate": figures["hit_rate"],
            "paced_hit_rate": paced["hit_rate"],
        }

    def at_2048(order: str) -> float:
        cell = bench.cell(Run(order, 2048, paced=False, interference=interference))
        return float(cell["seconds"])

    limits = bench.bounds(interference)
    best_fixed = min(orders, key=lambda o: orders[o]["fixed_s"])
    best_paced = min(orders, key=lambda o: orders[o]["paced_s"])
    dfs, blend_fixed = at_2048("dfs"), at_2048("blend")
    return {
        "mix": bench.mix.key,
        "device": bench.mix.device,
        "density": bench.mix.density,
        "sharing": bench.mix.sharing,
        "base": bench.mix.base,
        "interference": interference,
        "bounds": limits,
        "blend": blend,
        "orders": orders,
        "best_fixed": best_fixed,
        "best_paced": best_paced,
        "dfs_2048_s": dfs,
        "vs_dfs_2048": dfs / blend["seconds"],
        "vs_best_fixed": orders[best_fixed]["fixed_s"] / blend["seconds"],
        "vs_best_paced": orders[best_paced]["paced_s"] / blend["seconds"],
        "optimum_share": limits["practical"] / blend["seconds"],
        "sharing_kept": blend["hit_rate"] / max(blend["hit_rate_optimum"], 1e-12),
        "chain": {
            "sharing": at_2048("random") / dfs,
            "order": dfs / blend_fixed,
            "pacing": blend_fixed / blend["seconds"],
        },
    }


def header() -> str:
    """Return the column titles of `line`."""
    return (
        f"{'mix':28}{'blend s':>9}{'optimum':>9}{'binds':>9}{'vs dfs':>8}{'vs best fixed':>24}"
        f"{'vs best paced':>24}{'sharing':>9}  from sharing x order x pacing"
    )


def line(found: Figures) -> str:
    """Return one mix as a line of the table."""
    fixed_at = found["orders"][found["best_fixed"]]["budget"]
    chain = found["chain"]
    reached = found["bounds"]
    name = f"{found['device']} {found['base']} {reached['density']:.2f}/{reached['sharing']:.0%}"
    best_fixed = f"({found['best_fixed']} {fixed_at}) {found['vs_best_fixed']:.2f}"
    best_paced = f"({found['best_paced']}) {found['vs_best_paced']:.2f}"
    return (
        f"{name:28}{found['blend']['seconds']:9.0f}{found['optimum_share']:9.1%}"
        f"{found['bounds']['binds']:>9}{found['vs_dfs_2048']:8.2f}{best_fixed:>24}{best_paced:>24}"
        f"{found['sharing_kept']:9.1%}  {chain['sharing']:.2f} x {chain['order']:.2f} x {chain['pacing']:.2f}"
    )


def summary(found: list[Figures]) -> Figures:
    """Return means and extremes over mixes."""

    def column(name: str) -> list[float]:
        return [float(f[name]) for f in found]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "mixes": len(found),
        "mean_vs_dfs_2048": mean(column("vs_dfs_2048")),
        "min_vs_dfs_2048": min(column("vs_dfs_2048")),
        "max_vs_dfs_2048": max(column("vs_dfs_2048")),
        "mean_vs_best_fixed": mean(column("vs_best_fixed")),
        "min_vs_best_fixed": min(column("vs_best_fixed")),
        "mean_vs_best_paced": mean(column("vs_best_paced")),
        "min_vs_best_paced": min(column("vs_best_paced")),
        "optimum_share_mean": mean(column("optimum_share")),
        "optimum_share_min": min(column("optimum_share")),
        "sharing_kept_min": min(column("sharing_kept")),
        "binding": {
            limit: sum(f["bounds"]["binds"] == limit for f in found)
            for limit in ("compute", "memory", "longest")
        },
    }
