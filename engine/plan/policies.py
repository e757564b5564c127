"""The order policies behind one interface: each turns the requests into a `Plan` for the dual scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.choices import POLICIES
from engine.errors import EngineError
from engine.plan.order import (
    arrange,
    blend,
    by_segment,
    interleave,
    join,
    saved_tokens,
    segments_of,
)
from engine.plan.scan import RESERVE, Scan, make_scan
from engine.plan.tree import build_tree, distinct_tokens, hit_rate_optimum, node_costs

if TYPE_CHECKING:
    from engine.arrays import Bool, Float64, Int32, Int64
    from engine.cost.step import DeviceProfile, ModelShape
    from engine.plan.order import Accept, CostOf
    from engine.plan.tree import NodeCosts, PrefixTree

LINK = 0.5
"""A request is kept beside the one that it shares a prefix with if it would cost this much more alone.

Prefixes that matter less are common ones, such as system prompts: some running request always holds them.
"""


TRACE: Final = 1e-3
"""Tokens of an answer that a request without one, such as a prompt that is embedded, is taken to have while
orders are weighed: the density of such a request is large, not infinite."""


@dataclass(frozen=True)
class Plan:
    """An order of N requests and what it was made from.

    Attributes
    ----------
    policy
        A key of `POLICIES`.
    order
        int32 [N]: request indices; for `blend` compute-heavy first.
    estimate
        float64 [N]: expected output tokens by request index.
    compute, memory
        float64 [N]: modelled seconds by request index, after prefix sharing; for `blend` after the sharing
        that its order keeps.
    prompt_tokens, distinct_tokens
        Tokens of all prompts, and of the prefix tree.
    hit_rate_optimum
        Best hit rate with unlimited memory.
    segments
        int64 [k + 1]: requests ``order[segments[i]:segments[i + 1]]`` are a segment; all of one come before
        any of the next, and only those of one segment are blended. Empty: all are one segment.
    linked
        bool [N]: whether the request at a position of the order has to stay with the one before it: without
        their common prefix it would cost at least `LINK` more. Empty: nobody has to.
    saved_tokens
        Prompt tokens that each request shares with the one before it in the order.
    reserve
        Of `blend`: the parts of the compute-heavy side's share of the memory that the other side leaves free
        (`engine.plan.scan.HALF_RESERVE`).
    constraint_tokens, constraint_seconds
        What the segments cost: saved tokens fewer than without them, and modelled seconds more in which
        compute and memory work have nothing to run beside.
    """

    policy: str
    order: Int32
    estimate: Float64
    compute: Float64
    memory: Float64
    prompt_tokens: int
    distinct_tokens: int
    hit_rate_optimum: float
    segments: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    linked: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    saved_tokens: int = 0
    constraint_tokens: int = 0
    constraint_seconds: float = 0.0
    reserve: tuple[float, float] = RESERVE

    def scan(self) -> Scan:
        """Return the scan that the scheduler admits from."""
        return make_scan(
            self.order,
            self.compute,
            self.memory,
            self.estimate,
            two_sided=self.policy == "blend",
            segments=self.segments,
            linked=self.linked,
            reserve=self.reserve,
        )

    @property
    def density(self) -> Float64:
        """Compute over memory seconds of each request, float64 [N]."""
        return self.compute / np.maximum(self.memory, 1e-12)


def make_plan(
    policy: str,
    tokens: Int32,
    start: Int64,
    estimate: Float64,
    shape: ModelShape,
    device: DeviceProfile,
    seed: int = 0,
    *,
    group: Int64 | None = None,
    priority: Int64 | None = None,
    window: Int64 | None = None,
    first: Int32 | None = None,
    accept: Accept | None = None,
) -> Plan:
    """Order the requests whose prompts are ``tokens[start[i]:start[i + 1]]``.

    Parameters
    ----------
    estimate
        float64 [N]: expected output tokens; 0 where the prompt alone is computed.
    seed
        Of the shuffle of policy `random`.
    group
        int64 [N]: workload of each request, for policy `interleave`; without it all are one.
    priority
        int64 [N]: requests of a higher priority come first. None: all have the same.
    window
        int64 [N]: number of the request's deadline window, earlier ones first; negative for none.
    first
        int32 [n]: requests that come before all others of the same priority and window.
    accept
        Modelled seconds of an order, to reject a change of `blend` that does not pay (`order.blend`).

    Raises
    ------
    EngineError
        If the policy is unknown.
    """
    _check(policy)
    tree = build_tree(tokens, start)
    return plan_tree(
        policy,
        tree,
        estimate,
        shape,
        device,
        seed,
        group=group,
        priority=priority,
        window=window,
        first=first,
        accept=accept,
    )


def plan_tree(
    policy: str,
    tree: PrefixTree,
    estimate: Float64,
    shape: ModelShape,
    device: DeviceProfile,
    seed: int = 0,
    *,
    group: Int64 | None = None,
    priority: Int64 | None = None,
    window: Int64 | None = None,
    first: Int32 | None = None,
    accept: Accept | None = None,
) -> Plan:
    """Order the requests of a prefix tree, however it was built; arguments are those of `make_plan`.

    The tree may have only some of the requests that the arguments are about.
    """
    _check(policy)
    n = tree.sorted.shape[0]
    estimate = np.ascontiguousarray(estimate, np.float64)
    if n == 0:
        nothing = np.zeros(0)
        return Plan(
            policy, np.zeros(0, np.int32), nothing, nothing, nothing, 0, 0, 0.0, np.zeros(1, np.int64)
        )

    # Without an answer no KV is read: a trace of it lets the order see that such a request is out of place.
    weighed = np.maximum(estimate, TRACE)

    def cost_of(some: PrefixTree, output: Float64 = weighed) -> tuple[NodeCosts, Float64, Float64]:
        return node_costs(some, output, shape, device.flops, device.read_bytes)

    def order(part: PrefixTree, accept: Accept | None = None) -> PrefixTree:
        # Requests are numbered by leaf meanwhile, so that the work is that of the part.
        own = part.sorted
        local = part._replace(sorted=np.arange(own.shape[0], dtype=np.int32))
        of_own = partial(cost_of, output=weighed[own])
        arrival = np.argsort(own, kind="stable").astype(np.int32)
        judge = None if accept is None else lambda order: accept(own[order])
        found = _order(policy, local, arrival, of_own, seed, None if group is None else group[own], judge)
        return found._replace(sorted=own[found.sorted])

    ordered = order(tree, accept)
    segments, free = np.array([0, n], np.int64), saved_tokens(ordered)
    if priority is not None or window is not None or first is not None:
        # The modelled seconds are of whole orders, so they cannot judge a segment.
        segment = segments_of(priority, window, estimate.shape[0], first)
        parts = [order(part).sorted for part in by_segment(tree, segment)]
        ordered, segments = join(tree, parts)
    _, compute, memory = cost_of(ordered if policy == "blend" else tree, estimate)
    return Plan(
        policy=policy,
        order=ordered.sorted,
        estimate=estimate,
        compute=compute,
        memory=memory,
        prompt_tokens=int(tree.depth[:n].sum()),
        distinct_tokens=distinct_tokens(tree),
        hit_rate_optimum=hit_rate_optimum(tree),
        segments=segments,
        linked=_linked(ordered, estimate, shape, device),
        saved_tokens=saved_tokens(ordered),
        constraint_tokens=max(0, free - saved_tokens(ordered)),
        constraint_seconds=_unpaired(compute[ordered.sorted], memory[ordered.sorted], segments),
    )


def _linked(ordered: PrefixTree, estimate: Float64, shape: ModelShape, device: DeviceProfile) -> Bool:
    n = ordered.sorted.shape[0]
    prompt, common = ordered.depth[:n].astype(np.float64), ordered.common.astype(np.float64)
    output, nothing = estimate[ordered.sorted], np.zeros(n)
    reads = shape.request_kv_bytes(prompt, output) / device.read_bytes
    own = shape.request_flops(prompt, common, output) / device.flops + reads
    whole = shape.request_flops(prompt, nothing, output) / device.flops + reads
    return np.asarray((common > 0) & (whole >= (1.0 + LINK) * own))


def _check(policy: str) -> None:
    if policy not in POLICIES:
        raise EngineError(f"--policy: {policy!r} is unknown; choose one of {', '.join(POLICIES)}")


def _order(
    policy: str,
    tree: PrefixTree,
    arrival: Int32,
    cost_of: CostOf,
    seed: int,
    group: Int64 | None,
    accept: Accept | None,
) -> PrefixTree:
    """Return the requests of `tree` in the order of a policy; `arrival` are its leaves as they came in."""
    if policy == "blend":
        return blend(tree, cost_of, accept)
    if policy == "interleave" and group is not None:
        return interleave(tree, group)
    if policy in {"dfs", "interleave"}:
        return tree
    if policy == "random":
        arrival = arrival[np.random.default_rng(seed).permutation(arrival.shape[0])]
    return arrange(tree, arrival)


def _unpaired(compute: Float64, memory: Float64, segments: Int64) -> float:
    """Return the seconds that a perfect overlap inside each segment takes longer than one over all."""
    inside = np.maximum(np.add.reduceat(compute, segments[:-1]), np.add.reduceat(memory, segments[:-1]))
    return max(0.0, float(inside.sum() - max(compute.sum(), memory.sum()))) if segments.shape[0] > 2 else 0.0
