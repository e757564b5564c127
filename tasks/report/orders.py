"""Counterfactual orders: what the simulator says that each policy would have taken for the same requests.

Policies, scheduler and memory are the real ones; the device is modelled and the true answer lengths are
given. All orders go by the lengths that were expected, as the run did. A large night is sampled: groups of
requests that begin alike are taken as a whole, so that prefixes stay shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.choices import POLICIES
from engine.cost.optimum import optimum
from engine.cost.step import step_cost
from engine.plan.features import LEVELS, prefix_keys
from engine.plan.policies import plan_tree
from engine.plan.scan import RESERVE
from engine.plan.tree import build_tree, cached_tokens
from engine.simulate.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, ModelShape
    from engine.runtime.settings import EngineSettings

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]
    Float64 = npt.NDArray[np.float64]

MOST_REQUESTS: Final = 3000
MOST_TOKENS: Final = 3_000_000
"""Of a sample: requests, and tokens of their prompts and answers. Five orders of it take some ten seconds."""
GROUP: Final = 32
"""Requests that are sampled together."""


@dataclass(frozen=True)
class Order:
    """A policy in the simulator, all in seconds but the rates and counts.

    Attributes
    ----------
    compute, memory, hidden
        Sums over the steps, and how much of them passed beside each other: ``compute + memory - seconds``.
    """

    policy: str
    seconds: float
    compute: float
    memory: float
    hidden: float
    hit_rate: float
    recomputed_tokens: int
    steps: int
    tokens_per_second: float


@dataclass(frozen=True)
class Orders:
    """All policies, and what no order could beat.

    Attributes
    ----------
    requests, of
        Requests simulated, of all that were computed.
    ideal_seconds, limit
        The practical optimum of these requests, and which of its terms binds.
    overlaps
        Whether the modelled device does compute and memory work at the same time.
    """

    orders: tuple[Order, ...]
    requests: int
    of: int
    ideal_seconds: float
    limit: str
    overlaps: bool


def compare_orders(
    tokens: Int32,
    start: Int64,
    output: Int64,
    estimate: Float64,
    group: Int64,
    shape: ModelShape,
    device: DeviceProfile,
    settings: EngineSettings,
    seed: int = 0,
    reserve: Sequence[float] = RESERVE,
) -> Orders | None:
    """Return what each policy would have taken; None without requests.

    Parameters
    ----------
    tokens, start
        Prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    output, estimate
        int64 [N], float64 [N]: true and expected answer lengths; requests without an answer have 0.
    group
        int64 [N]: workload of each request.
    reserve
        Of `blend`: see `engine.plan.policies.Plan`.
    """
    left, less = reserve
    answered = np.flatnonzero(output > 0)
    chosen = choose_sample(tokens, start, output, answered)
    if not chosen.size:
        return None
    lengths = np.diff(start)[chosen]
    own_start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    own = np.empty(own_start[-1], np.int32)
    for place, i in enumerate(chosen):
        own[own_start[place] : own_start[place + 1]] = tokens[start[i] : start[i + 1]]
    answer = output[chosen].astype(np.int32)
    cost, tree = step_cost(shape, device), build_tree(own, own_start)
    expected, kinds = np.maximum(estimate[chosen], 1.0), group[chosen].astype(np.int64)
    total = float(lengths.sum() + answer.sum())
    found = []
    for policy in POLICIES:
        plan = plan_tree(policy, tree, expected, shape, device, seed=seed, group=kinds)
        done = simulate(replace(plan, reserve=(left, less)), own, own_start, answer, settings, cost)
        found.append(
            Order(
                policy,
                done.seconds,
                done.compute_seconds,
                done.memory_seconds,
                max(0.0, done.compute_seconds + done.memory_seconds - done.seconds),
                done.hit_rate,
                done.recomputed_tokens,
                done.steps,
                total / done.seconds if done.seconds > 0.0 else 0.0,
            )
        )
    best = optimum(
        cost,
        lengths.astype(np.float64),
        cached_tokens(tree).astype(np.float64),
        answer.astype(np.float64),
        float(settings.kv_tokens),
    )
    return Orders(
        tuple(sorted(found, key=lambda order: order.seconds)),
        requests=len(chosen),
        of=len(answered),
        ideal_seconds=best.practical,
        limit=best.practical_limit,
        overlaps=cost.interference < 1.0,
    )


def choose_sample(tokens: Int32, start: Int64, output: Int64, among: Int64) -> Int64:
    """Return the requests to simulate, in the order they came: all, or groups that begin alike."""
    size = (np.diff(start) + output)[among]
    if len(among) <= MOST_REQUESTS and int(size.sum()) <= MOST_TOKENS:
        return among
    keys = prefix_keys(tokens, start, np.array(LEVELS, np.int64))[among]
    alike = among[np.lexsort(keys.T[::-1])]
    groups = -(-len(alike) // GROUP)
    sizes = (np.diff(start) + output)[alike]
    taken: list[Int64] = []
    requests = amount = 0
    for place in np.random.default_rng(0).permutation(groups):
        part = slice(place * GROUP, (place + 1) * GROUP)
        requests += len(alike[part])
        amount += int(sizes[part].sum())
        if taken and (requests > MOST_REQUESTS or amount > MOST_TOKENS):
            break
        taken.append(alike[part])
    return np.sort(np.concatenate(taken))
