"""Mixes that nothing was tuned on: other lengths, other sharing and other proportions, from a seed alone.

Each has two to five workloads. A workload has prompts and answers of log-normal lengths of its own, and one
of three ways to share: a system prompt, examples by topic, or turns of conversations. Tune nothing on these:
they are there to show that what was tuned elsewhere holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.lib.sources import FIRST_ID, LAST_ID, LONGEST_REQUEST, SYSTEM_TOKENS
from tests.benchmarks.lib.workloads import BURST, Workload

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, ModelShape

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

SYSTEM, TOPICS, TURNS = range(3)


def _log_normal(rng: np.random.Generator, mean: float, sigma: float, count: int, most: int) -> Int64:
    draw = np.exp(sigma * rng.standard_normal(count) - 0.5 * sigma * sigma) * mean
    return np.clip(np.rint(draw), 1, most).astype(np.int64)


def _prompts(rng: np.random.Generator, count: int) -> list[Int32]:
    """Return the prompts of one workload, as they came."""
    kind, own = int(rng.integers(0, 3)), np.exp(rng.uniform(np.log(40), np.log(3_000)))
    tails = _log_normal(rng, own, rng.uniform(0.2, 1.2), count, LONGEST_REQUEST // 4)

    def fresh(length: int) -> Int32:
        return rng.integers(FIRST_ID, LAST_ID, int(length), dtype=np.int32)

    system = fresh(SYSTEM_TOKENS)
    if kind == TURNS:
        # A conversation goes on behind what was said; a new one begins after some turns.
        more, found, so_far = rng.uniform(0.3, 0.9), [], system
        for tail in tails:
            if rng.random() > more or so_far.size > LONGEST_REQUEST // 2:
                so_far = system
            so_far = np.concatenate((so_far, fresh(tail)))
            found.append(so_far)
        return found
    topics = 1 if kind == SYSTEM else int(rng.integers(5, 400))
    shared = _log_normal(rng, np.exp(rng.uniform(np.log(50), np.log(2_000))), 0.5, topics, 6_000)
    heads = [np.concatenate((system, fresh(length))) for length in shared]
    topic = rng.integers(0, topics, count)
    return [np.concatenate((heads[t], fresh(tail))) for t, tail in zip(topic, tails, strict=True)]


def holdout_mix(seed: int, requests: int, shape: ModelShape, device: DeviceProfile) -> Workload:
    """Return the mix of a seed, about `requests` of it.

    Raises
    ------
    ValueError
        If `requests` is below 100.
    """
    if requests < 100:
        raise ValueError(f"requests: {requests} is below 100")
    rng = np.random.default_rng((seed, 25))
    kinds = int(rng.integers(2, 6))
    counts = np.maximum((rng.dirichlet(np.ones(kinds)) * requests).astype(np.int64), 20)
    prompts, outputs = [], []
    for count in counts.tolist():
        prompts.append(_prompts(rng, count))
        mean = np.exp(rng.uniform(np.log(4), np.log(3_000)))
        outputs.append(_log_normal(rng, mean, rng.uniform(0.2, 1.2), count, LONGEST_REQUEST // 2))
    bursts = [
        (k, part)
        for k, count in enumerate(counts.tolist())
        for part in np.array_split(np.arange(count), max(1, count // BURST))
    ]
    # Each workload in its own order, in bursts among those of the others.
    queues = [iter([part for j, part in bursts if j == k]) for k in range(kinds)]
    arrived = [(bursts[i][0], next(queues[bursts[i][0]])) for i in rng.permutation(len(bursts))]
    workload = np.concatenate([np.full(part.size, k, np.int16) for k, part in arrived])
    output = np.concatenate([outputs[k][part] for k, part in arrived]).astype(np.int32)
    rows = [prompts[k][i] for k, part in arrived for i in part.tolist()]
    length = np.array([row.size for row in rows], np.int64)
    start = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    tokens = np.concatenate(rows)
    density, hit_rate = _figures(tokens, start, output, shape, device)
    return Workload(
        name=f"holdout {seed}",
        tokens=tokens,
        start=start,
        output=output,
        workload=workload,
        workloads=tuple(f"workload {k}" for k in range(kinds)),
        density=density,
        hit_rate=hit_rate,
    )


def _figures(
    tokens: Int32, start: Int64, output: Int32, shape: ModelShape, device: DeviceProfile
) -> tuple[float, float]:
    from engine.plan.tree import build_tree, hit_rate_optimum, node_costs

    tree = build_tree(tokens, start)
    _, compute, memory = node_costs(tree, output.astype(np.float64), shape, device.flops, device.read_bytes)
    return float(compute.sum() / max(memory.sum(), 1e-12)), hit_rate_optimum(tree)
