"""The order policies behind one interface: each turns the requests into a `Plan` for the dual scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import EngineError
from engine.plan.scan import Scan, make_scan
from engine.plan.tree import build_tree, depth_first, distinct_tokens, hit_rate_optimum, node_costs

if TYPE_CHECKING:
    from engine.cost import DeviceProfile, ModelShape
    from engine.plan.tree import Float64, Int32, Int64

POLICIES = {
    "fcfs": "as they arrived",
    "random": "a seeded shuffle",
    "dfs": "depth-first over the prefix tree: the most sharing",
    "blend": "compute-heavy and memory-heavy requests side by side, prefixes kept together",
}
"""Policy name -> what it does, in a few words."""


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
        float64 [N]: modelled seconds by request index, after prefix sharing.
    prompt_tokens, distinct_tokens
        Tokens of all prompts, and of the prefix tree.
    hit_rate_optimum
        Best hit rate with unlimited memory.
    """

    policy: str
    order: Int32
    estimate: Float64
    compute: Float64
    memory: Float64
    prompt_tokens: int
    distinct_tokens: int
    hit_rate_optimum: float

    def scan(self) -> Scan:
        """Return the scan that the scheduler admits from."""
        return make_scan(self.order, self.compute, self.memory, two_sided=self.policy == "blend")

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
) -> Plan:
    """Order the requests whose prompts are ``tokens[start[i]:start[i + 1]]``.

    Parameters
    ----------
    estimate
        float64 [N]: expected output tokens.
    seed
        Of the shuffle of policy `random`.

    Raises
    ------
    EngineError
        If the policy is unknown.
    """
    if policy not in POLICIES:
        raise EngineError(f"--policy: {policy!r} is unknown; choose one of {', '.join(POLICIES)}")
    n = start.shape[0] - 1
    if n == 0:
        nothing = np.zeros(0)
        return Plan(policy, np.zeros(0, np.int32), nothing, nothing, nothing, 0, 0, 0.0)
    tree = build_tree(tokens, start)
    costs, compute, memory = node_costs(tree, estimate, shape, device.flops, device.read_bytes)
    if policy == "fcfs":
        order = np.arange(n, dtype=np.int32)
    elif policy == "random":
        order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    elif policy == "dfs":
        order = depth_first(tree)
    else:
        order = depth_first(tree, costs.compute / np.maximum(costs.memory, 1e-12))
    return Plan(
        policy=policy,
        order=order,
        estimate=np.ascontiguousarray(estimate, np.float64),
        compute=compute,
        memory=memory,
        prompt_tokens=int(start[-1] - start[0]),
        distinct_tokens=distinct_tokens(tree),
        hit_rate_optimum=hit_rate_optimum(tree),
    )
